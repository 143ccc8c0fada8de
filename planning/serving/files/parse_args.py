"""Whether this image's vLLM understands the arguments of a replica, asked before the one that serves is stopped.

Ends with 1 and vLLM's own words if it doesn't. What isn't about the arguments, such as a module that this version keeps
elsewhere, is only told: a replacement that fails has a way back of its own.
"""

import sys


def main(argv: list[str]) -> int:
    try:
        import vllm
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    except Exception as error:
        print(f"the arguments were not looked at: {error!r}")
        return 0

    def refuse(message: str) -> None:
        raise ValueError(message)

    parser.error = refuse
    try:
        validate_parsed_serve_args(parser.parse_args(argv))
    except Exception as error:
        print(f"vLLM {vllm.__version__} does not take these arguments: {error}; see `extra_args` in the stack's file")
        return 1
    print(f"vLLM {vllm.__version__} takes these arguments")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
