"""Make a tiny Llama with random weights: what it answers is gibberish by design.

    make_random.py --positions 8192 --into /var/tmp/random/abc

For machines that reach no hub: everything but the meaning of the answers is real. Runs in the engine's image. The
same arguments give the same files. Run again, it finds them and ends.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

VOCABULARY = 2048
SEED = 20_261_121
SPECIAL = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TEXT = """An inference server keeps a model's weights in memory and answers requests for completions.
The prompt is split into tokens; their keys and values are cached, so that every further token costs little.
Many requests are computed together, and those that find no room wait in a queue until others have ended.
A gateway stands in front: it checks the key, chooses a replica, and passes the stream of tokens on.
""".splitlines()


def make(into: Path, positions: int) -> None:
    """Write config, weights and tokenizer; the folder appears only when it is whole."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    part = into.with_name(f"{into.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[1],
        model_max_length=positions,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(part)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        bos_token_id=0,
        eos_token_id=1,
        torch_dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(part, safe_serialization=True)
    for path in [part, *part.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    part.rename(into)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--positions", type=int, required=True)
    parser.add_argument("--into", type=Path, required=True)
    args = parser.parse_args()
    if (args.into / "config.json").exists():
        length = json.loads((args.into / "config.json").read_text())["max_position_embeddings"]
        print(f"{args.into}: already made, {length} positions")
        return 0
    make(args.into, args.positions)
    size = sum(path.stat().st_size for path in args.into.rglob("*"))
    print(f"{args.into}: made a model with random weights, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
