"""Train an adapter on one domain and test it on others.

A folder has one folder per domain, each with one folder per class.

    python examples/domain_generalisation.py --data imagenet-domains --train imagenet
    python examples/domain_generalisation.py --small
"""

from sample import SMALL, arguments, photos

from glora_automl import Workspace, load_recipe, search


def main() -> None:
    options = arguments(__doc__, data=None, train="white-on-black")
    folder = options.data
    if folder is None:
        folder = options.runs / "sample-domains"
        photos(folder / "white-on-black")
        photos(folder / "black-on-white", invert=True)
    recipe = load_recipe("own").replace(
        task={"source": "domains", "path": str(folder), "train": options.train}
    )
    if options.small:
        recipe = recipe.replace(**SMALL)
    result = search(recipe, name="domains", workspace=Workspace(runs=options.runs))
    for row in result.rows:
        print(f"{row.name}: {row.test.accuracy:.1%} on {options.train}")
        for domain, score in row.domains.items():
            print(f"  {score.accuracy:.1%} on {domain}")


if __name__ == "__main__":
    main()
