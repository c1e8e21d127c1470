"""The dashboard in a browser during a search."""

import shutil
import threading

import optuna
import pytest
from optuna.trial import create_trial

from glora_automl.report import dashboard_app, open_server, publish
from glora_automl.storages import open_storage
from tests.report.studies import add_trials, begin_study, frozen_trial, made_space

selenium = pytest.importorskip("selenium", reason="needs selenium")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="needs Chromium and its driver: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # Chromium has no sandbox for root, the user of containers
        "--disable-dev-shm-usage",
        "--enable-unsafe-swiftshader",  # parallel coordinates need WebGL
        "--window-size=1400,1800",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def searching(tmp_path):
    """Yield the dashboard's URL, a study to which a thread adds trials, and a foreign study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(f"sqlite:///{tmp_path}/a.db")
    study, space = begin_study(storage, "searched"), made_space()
    add_trials(study, space, 30)
    add_trials(study, space, 1, over=99)
    publish(study)
    other = optuna.create_study(study_name="other", storage=storage)
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    stop = threading.Event()

    def search():
        while not stop.wait(0.5):
            add_trials(study, space, 1)

    worker = threading.Thread(target=search)
    worker.start()
    with open_server(dashboard_app(storage), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.url, study, other
        stop.set()
        worker.join()
        server.shutdown()
        thread.join()
    storage.engine.dispose()


def texts(driver):
    """Return the text of the page, including the plots, which are SVG."""
    return driver.execute_script("return document.body.textContent")


def visit(driver, url, *words):
    """Open a page and wait for words on it."""
    driver.get(url)
    wait_for(driver, *words)


def wait_for(driver, *words):
    missing = list(words)

    def no_word_missing(_):
        page = texts(driver)
        missing[:] = [word for word in words if word not in page]
        return not missing

    try:
        WebDriverWait(driver, 60).until(no_word_missing)
    except Exception:
        pytest.fail(f"{driver.current_url} lacks {missing}, has: {texts(driver)[:2000]}")


def severe_errors(driver):
    """Return the errors in the browser's log, without warnings about slow WebGL."""
    return [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def test_dashboard_pages_show_a_running_search(browser, searching):
    url, study, other = searching
    page = f"{url}dashboard/studies/{study._study_id}"
    visit(browser, f"{url}dashboard", "searched", "other")
    assert "stages" not in texts(browser)

    best = study.best_trial
    words = ("Best Trial", "Hyperparameter Importance", "Timeline", "blocks.1", "budget")
    visit(browser, page, *words, "Infeasible", "Validation accuracy against trainable parameters")
    importance = browser.find_elements(
        By.CSS_SELECTOR, "#hyperparameter-importance, .js-plotly-plot"
    )
    assert importance, "no plot was drawn"
    assert "glora:settings" not in texts(browser)
    space = made_space()
    better = frozen_trial(space, study.user_attrs["glora:settings"]["budget"], 0, seed=5)
    study.add_trial(
        create_trial(
            value=0.999,
            params=better.params,
            distributions=better.distributions,
            constraints=better.constraints,
            user_attrs=better.user_attrs,
        )
    )
    number = study.best_trial.number
    assert number != best.number
    wait_for(browser, f"Best Trial (number={number})", "0.999")

    visit(browser, f"{page}/analytics", "Hyperparameter Relationships", "Slice", "Rank", "blocks.0")
    count = study.trials[3].user_attrs["trainable_params"]
    visit(browser, f"{page}/trials?numbers=3", "Trial 3", "blocks.0", str(count))
    visit(browser, f"{page}/smartSelection", "Smart Selection", "validation_accuracy")
    visit(browser, f"{page}/note", "Pareto front", "glora resume searched")
    visit(browser, f"{url}dashboard/studies/{other._study_id}", "Best Trial", "x")
    assert severe_errors(browser) == []
