"""Search an adapter for a folder of photos, export the model and classify with it.

python examples/folder_of_photos.py --data photos
python examples/folder_of_photos.py --small
"""

from sample import SMALL, arguments, photos

from glora_automl import Workspace, export_model, load_recipe, predict, search


def main() -> None:
    options = arguments(__doc__, data=None, model="vit_base_patch16_224.augreg_in21k")
    folder = options.data or photos(options.runs / "sample-photos")
    recipe = load_recipe("own").replace(
        task={"path": str(folder)}, backbone={"model": options.model}, budget="1%"
    )
    if options.small:
        recipe = recipe.replace(**SMALL)
    workspace = Workspace(runs=options.runs)
    result = search(recipe, name="photos", workspace=workspace)
    for row in result.rows:
        print(f"{row.name}: {row.n_params:,} parameters, test accuracy {row.test.accuracy:.1%}")
    export = export_model("photos", "timm", options.runs / "photos-model", workspace=workspace)
    found = predict(export.path, [str(folder)])
    print(f"{len(found.files)} photos, the first is {found.best()[0][1][0][0]}")


if __name__ == "__main__":
    main()
