"""What a study records, and what can be read from it without images."""

from glora_automl.study._architectures import find_architecture, parse_trial
from glora_automl.study._comparison import Comparison, RankCorrelation, kendall
from glora_automl.study._costs import STAGES, Cost, stage_costs, stage_seconds
from glora_automl.study._ranking import (
    CONSTRAINT,
    best_of,
    best_trials,
    done_trials,
    front_of,
    objective_name,
    rank,
)
from glora_automl.study._result import CONTROLS_ASIDE, Row, Selection, best_row, is_better, quality
from glora_automl.study._study import (
    FORMAT,
    Attribute,
    Settings,
    create_study,
    get_attribute,
    get_setting,
    is_ours,
    load_study,
    name_objectives,
    read_recipe,
    read_space,
    refuse_foreign,
    set_attribute,
    study_key,
)
from glora_automl.study._summary import list_studies, summarize

__all__ = [
    "CONSTRAINT",
    "CONTROLS_ASIDE",
    "FORMAT",
    "STAGES",
    "Attribute",
    "Comparison",
    "Cost",
    "RankCorrelation",
    "Row",
    "Selection",
    "Settings",
    "best_of",
    "best_row",
    "best_trials",
    "create_study",
    "done_trials",
    "find_architecture",
    "front_of",
    "get_attribute",
    "get_setting",
    "is_better",
    "is_ours",
    "kendall",
    "list_studies",
    "load_study",
    "name_objectives",
    "objective_name",
    "parse_trial",
    "quality",
    "rank",
    "read_recipe",
    "read_space",
    "refuse_foreign",
    "set_attribute",
    "stage_costs",
    "stage_seconds",
    "study_key",
    "summarize",
]
