"""The records of a study, which are read without images."""

from glora_automl.study._architectures import find_architecture, parse_trial
from glora_automl.study._attributes import check_settings
from glora_automl.study._backbones import RankedBackbone, RankingOutcome, read_ranking
from glora_automl.study._classes import ClassFigures, ClassReport, Confusion
from glora_automl.study._comparison import Comparison, RankCorrelation, spearman
from glora_automl.study._costs import STAGES, Cost, stage_costs, stage_spent, trials_spent
from glora_automl.study._data import Absent, DataSummary, Majority, Overlap, read_data
from glora_automl.study._ladder import Ladder, Step, margin_note
from glora_automl.study._load import (
    FORMAT,
    Attribute,
    get_attribute,
    get_setting,
    is_glora_study,
    load_study,
    read_recipe,
    read_space,
    refuse_foreign,
    set_attribute,
    study_key,
)
from glora_automl.study._outcomes import (
    AdapterOutcome,
    BackboneOutcome,
    CandidatesOutcome,
    Done,
    PairOutcome,
    SelectOutcome,
    Spent,
    SupernetOutcome,
    TestOutcome,
    TuneOutcome,
)
from glora_automl.study._paired import beats
from glora_automl.study._ranking import (
    CONSTRAINT,
    best_trials,
    direction_text,
    directions_of,
    done_trials,
    name_objectives,
    objective_name,
    pareto_trials,
)
from glora_automl.study._record import Record
from glora_automl.study._result import SEARCHED, Row, Selection, best_row, is_better, quality
from glora_automl.study._settings import Settings, create_study
from glora_automl.study._stages import Stage, StageName
from glora_automl.study._summary import list_studies, summarize
from glora_automl.study._target import attempt_counts, set_target

__all__ = [
    "CONSTRAINT",
    "FORMAT",
    "SEARCHED",
    "STAGES",
    "Absent",
    "AdapterOutcome",
    "Attribute",
    "BackboneOutcome",
    "CandidatesOutcome",
    "ClassFigures",
    "ClassReport",
    "Comparison",
    "Confusion",
    "Cost",
    "DataSummary",
    "Done",
    "Ladder",
    "Majority",
    "Overlap",
    "PairOutcome",
    "RankCorrelation",
    "RankedBackbone",
    "RankingOutcome",
    "Record",
    "Row",
    "SelectOutcome",
    "Selection",
    "Settings",
    "Spent",
    "Stage",
    "StageName",
    "Step",
    "SupernetOutcome",
    "TestOutcome",
    "TuneOutcome",
    "attempt_counts",
    "beats",
    "best_row",
    "best_trials",
    "check_settings",
    "create_study",
    "direction_text",
    "directions_of",
    "done_trials",
    "find_architecture",
    "get_attribute",
    "get_setting",
    "is_better",
    "is_glora_study",
    "list_studies",
    "load_study",
    "margin_note",
    "name_objectives",
    "objective_name",
    "pareto_trials",
    "parse_trial",
    "quality",
    "read_data",
    "read_ranking",
    "read_recipe",
    "read_space",
    "refuse_foreign",
    "set_attribute",
    "set_target",
    "spearman",
    "stage_costs",
    "stage_spent",
    "study_key",
    "summarize",
    "trials_spent",
]
