"""Sweep the number of images per class, as few-shot papers do: 1, 2, 4, 8 and 16.

python examples/few_shot_sweep.py --data photos
python examples/few_shot_sweep.py --small
"""

from sample import SMALL, arguments, photos

from glora_automl import Workspace, load_recipe, search


def main() -> None:
    options = arguments(__doc__, data=None, model="vit_base_patch16_224.augreg_in21k")
    folder = options.data or photos(options.runs / "sample-photos")
    recipe = load_recipe("own").replace(backbone={"model": options.model})
    if options.small:
        recipe = recipe.replace(**SMALL)
    for shots in (2, 4) if options.small else (1, 2, 4, 8, 16):
        # The images of fewer shots are a part of those of more shots.
        few = recipe.replace(task={"path": str(folder), "shots": shots})
        result = search(few, name=f"shots-{shots}", workspace=Workspace(runs=options.runs))
        accuracies = ", ".join(f"{row.name} {row.test.accuracy:.1%}" for row in result.rows)
        print(f"{shots} per class: {accuracies}")


if __name__ == "__main__":
    main()
