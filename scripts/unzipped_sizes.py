"""Print how large each function is with its layers, in the FOLDER that `sam build` wrote.

    .venv-sam/bin/python scripts/unzipped_sizes.py FOLDER MAX_MB

Lambda's limit counts that. Exits with 1 if a function exceeds MAX_MB.
"""

import sys
from pathlib import Path

from samcli.yamlhelper import yaml_parse

LAMBDA_MB = 250
LAYER, FUNCTION = "AWS::Serverless::LayerVersion", "AWS::Serverless::Function"


def size_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / (1 << 20)


def layers(template: dict, name: str) -> list[str]:
    """The stack's own layers of a function: SAM adds its list to that of all functions."""
    listed = template["Globals"]["Function"]["Layers"] + (
        template["Resources"][name]["Properties"].get("Layers", [])
    )
    return [layer["Ref"] for layer in listed if "Ref" in layer]


def main(build: Path, max_mb: float) -> None:
    template = yaml_parse((build / "template.yaml").read_text())
    kinds = {name: resource["Type"] for name, resource in template["Resources"].items()}
    mb = {name: size_mb(build / name) for name, kind in kinds.items() if kind in (LAYER, FUNCTION)}
    totals = {
        name: mb[name] + sum(mb[layer] for layer in layers(template, name))
        for name, kind in kinds.items()
        if kind == FUNCTION
    }
    for name in (name for name, kind in kinds.items() if kind == LAYER):
        print(f"{mb[name]:6.1f} MB  {name}")
    print("Unzipped, each function with its layers:")
    for name, total_mb in totals.items():
        print(f"{total_mb:6.1f} MB  {name}")
    print(f"Lambda's limit is {LAMBDA_MB} MB, ours {max_mb:.0f}")
    sys.exit(max(totals.values()) > max_mb)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
