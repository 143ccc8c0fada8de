"""`python -m tests.golden.update`: write tests/golden anew. Review what `git diff` shows then."""

from tests.golden.render import FOLDER, golden, stored


def main() -> None:
    now, before = golden(), stored()
    for path in before.keys() - now.keys():
        (FOLDER / path).unlink()
    for path, text in now.items():
        (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / path).write_text(text)
    changed = sum(before.get(path) != text for path, text in now.items())
    print(f"{len(now)} files, {changed} changed, {len(before.keys() - now.keys())} removed")


if __name__ == "__main__":
    main()
