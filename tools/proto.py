"""Generates src/banditroute/v1 from proto/, or checks that it is up to date and compatible.

    python tools/proto.py generate | check | baseline

`check` runs `buf lint`, `buf breaking` against proto/baseline.binpb (the contract as last released)
and compares the committed code with a fresh generation. `baseline` makes the present contract the
released one. buf reads a descriptor image made by protoc, so it needs no module registry.
"""

from __future__ import annotations

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

import google.rpc
import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GENERATED = ROOT / "src" / "banditroute" / "v1"
BASELINE = PROTO / "baseline.binpb"
FILES = sorted(str(p.relative_to(PROTO)) for p in PROTO.glob("banditroute/v1/*.proto"))
# google/rpc/*.proto ship beside the package's modules; google/protobuf/*.proto with grpc_tools.
INCLUDES = [PROTO, Path(google.rpc.__path__[0]).parent.parent, Path(grpc_tools.__path__[0]) / "_proto"]
BIN = Path(sys.executable).parent


def run_protoc(*outputs: str) -> None:
    plugins = [f"--plugin=protoc-gen-{name}={BIN / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    arguments = ["protoc", *(f"-I{path}" for path in INCLUDES), *plugins, *outputs, *FILES]
    if protoc.main(arguments) != 0:  # type: ignore[no-untyped-call]
        sys.exit("protoc failed")


def generate(target: Path) -> None:
    run_protoc(f"--python_out={target}", f"--grpc_python_out={target}", f"--mypy_out={target}", f"--mypy_grpc_out={target}")


def image(path: Path) -> Path:
    run_protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={path}")
    return path


def buf(*arguments: str) -> bool:
    command = [str(BIN / "buf"), *arguments, "--config", str(PROTO / "buf.yaml"), "--path", "banditroute"]
    return subprocess.run(command, cwd=PROTO, check=False).returncode == 0


def check() -> None:
    with tempfile.TemporaryDirectory() as folder:
        now = image(Path(folder) / "now.binpb")
        ok = buf("lint", str(now)) & buf("breaking", str(now), "--against", str(BASELINE))
        generate(Path(folder))
        fresh = Path(folder) / "banditroute" / "v1"
        names = [p.name for p in fresh.iterdir()]
        _, differing, missing = filecmp.cmpfiles(fresh, GENERATED, names, shallow=False)
    if differing or missing:
        print(f"generated code is out of date ({', '.join(differing + missing)}): run `make proto`", file=sys.stderr)
        ok = False
    if not ok:
        sys.exit(1)
    print("contract: lint, compatibility and generated code are in order")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["generate"]:
            generate(ROOT / "src")
        case ["check"]:
            check()
        case ["baseline"]:
            image(BASELINE)
        case _:
            sys.exit(__doc__)
