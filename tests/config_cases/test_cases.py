"""Every file below cases/ is one spec, with all that must be said of it; its path is the behaviour it shows.

`spec` is laid over the base file (`dev` or `prod`; null takes a key away), or `text` is the whole file.
`others` are further stacks beside it, each laid over prod, or its whole text; `files` are files of the repository.
`problems` is the complete list: path, and parts of what is said and what to write. A good case has `loads`.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from stack_configs.load import ROOT, Settings, resolve
from stack_configs.problems import Problem, SpecError, dotted
from stack_configs.source import parse

CASES = Path(__file__).parent / "cases"
FILES = sorted(CASES.rglob("*"))
KEYS = {"me": "0" * 64, "editors": "1" * 64, "batch": "2" * 64}


def overlaid(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    merged = {**base, **{key: overlaid(base.get(key), value) for key, value in over.items()}}
    return {key: value for key, value in merged.items() if value is not None}


def laid_over(base: str, spec: Any) -> str:
    shipped = yaml.safe_load((ROOT / "stack_configs" / f"{base}.yaml").read_text())
    return str(yaml.safe_dump(overlaid(shipped, spec), sort_keys=False))


def spec_of(case: dict[str, Any], root: Path) -> Any:
    text = case.get("text")
    if text is None:
        text = laid_over(case["base"], case["spec"])
    settings = Settings(**{"key_hashes": KEYS, **case.get("settings", {})})
    elsewhere = {"others", "files"} & set(case)
    if elsewhere:
        (root / "stack_configs").mkdir()
        (root / "stack_configs" / "versions").symlink_to(ROOT / "stack_configs" / "versions")
        for stack, other in case.get("others", {}).items():
            file = root / "stack_configs" / f"{stack}.yaml"
            file.write_text(other if isinstance(other, str) else laid_over("prod", other))
        for name, content in case.get("files", {}).items():
            (root / name).write_text(content)
    return resolve(parse(text, "spec.yaml"), case.get("base", "dev"), settings, root if elsewhere else ROOT)


def at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("file", [f for f in FILES if f.is_file()], ids=lambda f: str(f.relative_to(CASES)))
def test_case(file: Path, tmp_path: Path) -> None:
    case = yaml.safe_load(file.read_text())
    assert set(case) <= {"why", "base", "spec", "text", "others", "files", "settings", "problems", "loads"}, (
        "a key nobody reads"
    )
    assert case["why"]
    assert ("problems" in case) != ("loads" in case)
    if "loads" in case:
        spec = spec_of(case, tmp_path)
        assert {path: at(spec, path) for path in case["loads"]} == case["loads"]
        return
    with pytest.raises(SpecError) as raised:
        spec_of(case, tmp_path)
    found = {dotted(problem.path): problem for problem in raised.value.problems}
    expected = {problem["path"]: problem for problem in case["problems"]}
    assert sorted(dotted(p.path) for p in raised.value.problems) == sorted(expected), str(raised.value)
    for path, problem in found.items():
        assert expected[path]["says"] in problem.says, problem.says
        assert expected[path]["write"] in problem.write, problem.write
        assert problem.file == "spec.yaml"
        assert problem.line, "no line"


def test_every_file_is_a_case() -> None:
    assert [f.name for f in FILES if f.is_file() and f.suffix != ".yaml"] == []
    assert sum("problems" in yaml.safe_load(f.read_text()) for f in FILES if f.is_file()) >= 40


def test_a_problem_reads_like_a_compilers() -> None:
    problem = Problem(path=("models", "chat"), says="is wrong", write="mend it", file="x.yaml", line=3)
    assert str(SpecError([problem])) == (
        "the stack's description can't be used:\nx.yaml:3  models.chat\n    is wrong\n    mend it\n"
        "1 problem. Nothing was changed."
    )


def test_a_stack_without_a_file_names_those_that_have_one(tmp_path: Path) -> None:
    from stack_configs.load import load

    with pytest.raises(SpecError, match=r"does not exist\n.*one of: dev, prod"):
        load("dve", Settings())
    with pytest.raises(SpecError):
        load("dev", Settings(), root=tmp_path)


def test_a_key_written_into_the_file_is_not_shown(tmp_path: Path) -> None:
    case = yaml.safe_load((CASES / "settings" / "a-key-written-into-the-file.yaml").read_text())
    with pytest.raises(SpecError) as raised:
        spec_of(case, tmp_path)
    assert case["spec"]["gateway"]["keys"]["me"] not in str(raised.value)


def test_devs_second_model_fits_beside_the_first_on_one_gpu() -> None:
    text = (ROOT / "stack_configs" / "dev.yaml").read_text()
    start = text.index("  # small:")
    block, rest = text[start:].split("\n\n", 1)
    text = text[:start] + block.replace("  # ", "  ") + "\n\n" + rest
    gpu = "GPU-3f0c6f0e-6b1f-4c39-9d0e-0a4f1c2b7d11"
    spec = resolve(parse(text, "dev.yaml"), "dev", Settings(key_hashes=KEYS, gpus=(gpu,)))
    assert set(spec.file.models) == {"chat", "small"}


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    from stack_configs.load import load

    (tmp_path / "stack_configs").mkdir()
    (tmp_path / "stack_configs" / "dev.yaml").write_bytes(b"versions: \xff\n")
    with pytest.raises(SpecError, match="is not UTF-8"):
        load("dev", Settings(), root=tmp_path)
