"""Make a tiny Llama with random weights: a stand-in where no hub can be reached, whose answers are gibberish.

`python3 fetch.py --positions N --into FOLDER`. The same arguments give the same weights. The folder is made under
another name and renamed, so that it is complete or absent.
"""

import argparse
import fcntl
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

SEED = 20_261_121
LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS = 2, 256, 688, 4, 2
VOCABULARY = 2048
SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
STEMS = """
act add air answer ask back bank base bear begin block board book bound branch bread bridge bring build burn
call card care carry case cause chain change check circle city class clean clear climb cloud coast cold
colour common copper copy corner count cover cross crowd dark deep depend desk draw dream drive early earth
east edge engine even event fair farm field figure find fire floor flow follow force forest form frame free
fresh friend front garden gather gentle glass gold grain grand grass green ground group grow guard hand
harbour heart heavy hidden high hill hold horse house hundred idea iron island journey kind king kitchen
know lake land lantern large laugh lead learn leave letter level light line listen little long machine make
map march mark market master matter meadow measure memory middle mind minute mirror moment month moon
morning mountain move music name narrow nature near night north notice number ocean offer open orange order
paper part pass path pattern people picture place plain plant play point power present press proud public
quarter question quick quiet rain raise reach read ready reason record remember rest ring river road rock
roof room round rule sail salt sand school season second seed serve shade shape share shelf shine ship
shore short silver simple single sleep slow small smooth snow soft song sound south space speak spring
square stand star start station steel step still stone store storm story stream street strong summer table
talk teach thing think thousand thread thunder timber together tower town track trade train travel tree
true turn under valley view village visit voice wait walk wall warm watch water weather wheel whole wide
wild wind window winter wonder wood word work world write yellow young
""".split()  # noqa: SIM905
ENDINGS = ("", "s", "ed", "ing", "er", "ly", "ness", "ful", "less", "able")


def text() -> list[str]:
    """What the tokenizer learns from: words in lower and upper case."""
    words = [stem + ending for stem in STEMS for ending in ENDINGS]
    return [f" {word} {word.capitalize()}" for word in words for _ in range(2)]


def save_tokenizer(folder: Path) -> int:
    """A byte-level BPE with a chat template. Returns how many tokens it has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        text(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": SPECIAL[0],
            "pad_token": SPECIAL[0],
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
        },
    )
    return int(tokenizer.get_vocab_size())


def shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a LlamaForCausalLM's tensors."""
    kv = HIDDEN // HEADS * KV_HEADS
    named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        named |= {
            f"{at}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{at}.self_attn.k_proj.weight": (kv, HIDDEN),
            f"{at}.self_attn.v_proj.weight": (kv, HIDDEN),
            f"{at}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{at}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{at}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{at}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
            f"{at}.input_layernorm.weight": (HIDDEN,),
            f"{at}.post_attention_layernorm.weight": (HIDDEN,),
        }
    return named | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (vocabulary, HIDDEN)}


def save_weights(folder: Path, vocabulary: int) -> None:
    """As safetensors: the header's length (8 bytes), the header (JSON), the tensors."""
    import numpy as np  # type: ignore[import-not-found,unused-ignore]

    random = np.random.default_rng(SEED)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for name, shape in shapes(vocabulary).items():
        values = (
            np.ones(shape, dtype=np.float32)
            if "norm" in name
            else random.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
        )
        start = len(body)
        # bfloat16 is the upper half of a float32.
        body += (values.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, len(body)]}
    described = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(described).to_bytes(8, "little") + described + body)


def save_config(folder: Path, vocabulary: int, positions: int) -> None:
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "vocab_size": vocabulary,
            "max_position_embeddings": positions,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": 0,
            "torch_dtype": "bfloat16",
        },
    )


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", required=True, type=int)
    parser.add_argument("--into", required=True, type=Path)
    args = parser.parse_args()
    os.umask(0o022)  # engines run as other users
    folder: Path = args.into
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / ".lock").open("w") as lock:
            # Two models may use the same folder: the second waits, and finds it made.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                print("the random model is already there", flush=True)
                return 0
            made = folder.with_name(f"{folder.name}.unfinished")
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            vocabulary = save_tokenizer(made)
            save_weights(made, vocabulary)
            save_config(made, vocabulary, args.positions)
            for path in made.iterdir():
                path.chmod(0o644)
            made.rename(folder)
    except OSError as error:
        print(f"error: the random model could not be written: {error}", file=sys.stderr, flush=True)
        return 1
    print("made a tiny model with random weights: its answers are gibberish by design", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
