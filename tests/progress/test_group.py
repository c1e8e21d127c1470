"""Several displays of one progress."""

from glora_automl.progress import LineProgress, ProgressGroup


def test_group_shows_stages_and_epochs_on_all_members():
    lines = [], []
    group = ProgressGroup([LineProgress(own.append) for own in lines])
    with group.stage("Search", 2, "trials") as advance:
        advance(1)
        advance(1, "best 90%")
    with group.epochs("Train", 2) as on_epoch:
        on_epoch(2, 0.5)
    assert lines[0][0] == "Search: 2 trials"
    assert "best 90%" in lines[0][1]
    assert "loss 0.500" in lines[0][3]
    assert [line.partition(",")[0] for line in lines[0]] == [
        line.partition(",")[0] for line in lines[1]
    ]
