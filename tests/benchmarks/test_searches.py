import json


def test_small_mode_prints_a_table_and_writes_json(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    module = benchmark_script("searches", "digits", "--small", f"--out={out}")
    printed = capsys.readouterr().out
    runs = json.loads(out.read_text(encoding="utf-8"))["runs"]
    assert set(runs) == set(module.WAYS)
    for way, figures in runs.items():
        assert way.split(",")[0] in printed
        assert len(figures) == 2
    # Without errors racing changes nothing but the images that are looked at.
    for plain, raced in zip(runs["evolution"], runs["evolution, racing 0"], strict=True):
        assert plain["highest"] == raced["highest"]
        assert plain["images"] >= raced["images"]
