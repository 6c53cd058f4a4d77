"""`assay pairs` from prompts to a folder, and the folder to the hub. The engines are fakes; all else is real."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sqlite3
import subprocess
import sys

import pytest

from judges import CannotRun
from judges.cli import main
from judges.engines import registry
from judges.engines.base import Completion, Engine, Generation, RequestFailed
from judges.engines.store import request_digest
from judges.preferences.hub import push_to_hub
from judges.preferences.pairs import make_pairs
from judges.types import Usage

ASSAY = [sys.executable, "-c", "from judges.cli import main; main()"]
POLICY = "fake,engine=transformers"


def rows(path, *made):
    path.write_text("".join(json.dumps(r) + "\n" for r in made))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Fake(Engine):
    """Writes unlike words by the request's own seed, in no order; counts what it is asked."""

    name = model = "fake"

    def __init__(self, answer=None):
        self.asked, self.answer, self.closed = [], answer or self.words, False

    @staticmethod
    def words(request, k):
        if "Task 1:" in request.messages[-1]["content"]:
            draw = random.Random(request.seed)
            return " ".join("".join(draw.choices("abcdefghijklmnop", k=5)) for _ in range(6))
        draw = random.Random(f"{request.seed} {k}")
        return "word " * draw.randint(1, 40) + str(k)

    async def complete(self, request):
        self.asked.append(request_digest(request))
        # Another order of finishing than that of asking, and another one in every process.
        await asyncio.sleep(random.random() / 100)
        if "broken" in request.messages[-1]["content"]:
            raise RequestFailed("timeout", "too slow")
        texts = [self.answer(request, k) for k in range(request.n)]
        return Completion(tuple(Generation(text, "stop") for text in texts), Usage(1, 0, 1, 0.0))

    async def log_likelihood(self, *_):
        raise NotImplementedError


@pytest.fixture
def engine(monkeypatch):
    """The engine that every run of a test opens."""
    found = Fake()
    monkeypatch.setattr(registry, "_open", {})
    monkeypatch.setattr(registry, "_build", lambda *_: found)
    return found


@pytest.fixture
def assay(monkeypatch, capsys):
    """Run the command line; its exit code and what it wrote to standard output and standard error."""
    import signal

    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["assay", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        told = capsys.readouterr()
        return stopped.value.code or 0, told.out, told.err

    return run


def prompts(path, n=12):
    return rows(path, *({"id": f"p{i}", "prompt": f"question {i}"} for i in range(n)))


# -- end to end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_two_runs_with_one_seed_are_byte_for_byte_the_same_and_another_seed_is_not(tmp_path, engine, assay, form):
    source = prompts(tmp_path / "in.jsonl")
    command = ["pairs", source, "--scorer", "length", "--format", form, "--choose", "best-random", "--budget", 9]
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        code, out, _ = assay(*command, "--policy", f"{POLICY},seed={seed}", "-o", tmp_path / folder)
        assert code == 0 and "gave pairs" in out and "9 pairs" in out
    first, second, third = ((tmp_path / name / f"pairs.{form}").read_bytes() for name in ("one", "two", "three"))
    assert first == second != third
    if form == "jsonl":
        assert (tmp_path / "one" / "account.json").read_text() == (tmp_path / "two" / "account.json").read_text()
    assert len(engine.asked) == 36, "one request for all candidates of a prompt"


def test_every_row_of_the_pairs_is_the_longest_and_the_shortest_of_what_was_drawn(tmp_path, engine, assay):
    source = prompts(tmp_path / "in.jsonl")
    code, _, err = assay("pairs", source, "--scorer", "length", "--policy", POLICY, "--format", "jsonl",
                         "--candidates", 5, "-o", tmp_path / "out", "--quiet")  # fmt: skip
    assert (code, err) == (0, "")
    made, drawn = read(tmp_path / "out" / "pairs.jsonl"), read(tmp_path / "out" / "candidates.jsonl")
    assert [row["id"] for row in made] == [row["id"] for row in drawn] == [f"p{i}" for i in range(12)]
    for pair, row in zip(made, drawn, strict=True):
        assert len(row["responses"]) == 5
        assert pair["chosen"][0]["content"] == max(row["responses"], key=len)
        assert pair["rejected"][0]["content"] == min(row["responses"], key=len)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("pairs.jsonl", "candidates.jsonl", "candidates.jsonl.run", "account.json", "README.md", "plots")
    }


def test_a_second_run_and_other_rules_draw_and_judge_nothing(tmp_path, engine, assay, monkeypatch):
    from judges.scorers.baselines import Length

    judged, old = [], Length.stream
    monkeypatch.setattr(Length, "stream", lambda self, items: old(self, (judged.append(i.id) or i for i in items)))
    source = prompts(tmp_path / "in.jsonl")
    command = ["pairs", source, "--scorer", "length", "--policy", POLICY, "--format", "jsonl", "-o", tmp_path / "out"]
    assert assay(*command)[0] == 0
    first = (tmp_path / "out" / "pairs.jsonl").read_bytes()
    assert assay(*command)[0] == 0 and (tmp_path / "out" / "pairs.jsonl").read_bytes() == first
    for more in (["--choose", "all"], ["--choose", "top-k", "--top", 2], ["--length-tolerance", 0.5], ["--margin", 5],
                 ["--quality"], ["--budget", 2], ["--agreement", 0.5], ["--choose", "best-random"]):  # fmt: skip
        assert assay(*command, *more)[0] == 0
    assert len(engine.asked) == len(judged) == 12
    assert assay(*command)[0] == 0 and (tmp_path / "out" / "pairs.jsonl").read_bytes() == first


def test_killed_while_it_draws_it_goes_on_and_draws_nothing_again(tmp_path, engine, assay, monkeypatch):
    source = prompts(tmp_path / "in.jsonl")
    command = ["pairs", source, "--scorer", "length", "--policy", f"{POLICY},window=4", "--format", "jsonl"]
    complete, left = Fake.complete, [5]

    async def dies(self, request):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("killed")
        return await complete(self, request)

    with monkeypatch.context() as dying:
        dying.setattr(Fake, "complete", dies)
        with pytest.raises(RuntimeError, match="killed"):
            assay(*command, "-o", tmp_path / "out")
    assert not list((tmp_path / "out").glob("pairs.*"))
    with sqlite3.connect(tmp_path / "out" / "candidates.jsonl.run" / "candidates.sqlite") as store:
        (kept,) = store.execute("SELECT count(*) FROM completions").fetchone()
    before = len(engine.asked)
    assert 0 < kept <= before == 5
    assert assay(*command, "-o", tmp_path / "out")[0] == 0
    assert len(engine.asked) == before + 12 - kept and len(set(engine.asked)) == 12
    assert assay(*command, "-o", tmp_path / "fresh")[0] == 0
    assert (tmp_path / "out" / "pairs.jsonl").read_bytes() == (tmp_path / "fresh" / "pairs.jsonl").read_bytes()


def test_more_rows_of_a_limit_go_on_and_pairs_are_of_all(tmp_path, engine, assay):
    source = prompts(tmp_path / "in.jsonl")
    command = ["pairs", source, "--scorer", "length", "--policy", POLICY, "--format", "jsonl", "-o", tmp_path / "out"]
    assert assay(*command, "--limit", 3)[0] == 0 and len(read(tmp_path / "out" / "pairs.jsonl")) == 3
    assert assay(*command)[0] == 0 and len(read(tmp_path / "out" / "pairs.jsonl")) == 12 == len(engine.asked)


def test_a_prompt_whose_request_fails_and_a_row_that_is_none_are_told_and_the_others_make_pairs(
    tmp_path, engine, assay
):
    source = rows(tmp_path / "in.jsonl", {"prompt": "one"}, {"prompt": "broken"}, {"other": 1}, {"prompt": "two"})
    code, out, _ = assay("pairs", source, "--scorer", "length", "--policy", POLICY, "-o", tmp_path / "out")
    assert code == 1
    assert "not-drawn" in out and "1 timeout" in out and "1 empty" in out
    told = json.loads((tmp_path / "out" / "account.json").read_text())
    assert told["account"]["drops"] == {"not-drawn": 2} and told["account"]["paired"] == 2
    assert told["policy"]["model"] == "fake" and told["scorer"] == {"scorer": "length"}


def test_rules_judge_as_any_scorer_does(tmp_path, engine, assay):
    (tmp_path / "rules.yaml").write_text("rules:\n  - {name: long, points: 2, words: {at_least: 20}}\n")
    source = prompts(tmp_path / "in.jsonl", 20)
    code, out, _ = assay("pairs", source, "--scorer", f"rules,file={tmp_path}/rules.yaml", "--policy", POLICY,
                         "--format", "jsonl", "-o", tmp_path / "out")  # fmt: skip
    assert code == 0 and "level" in out
    made = read(tmp_path / "out" / "pairs.jsonl")
    assert made and {(row["score_chosen"], row["score_rejected"]) for row in made} == {(2.0, 0.0)}
    words = [(len(row["chosen"][0]["content"].split()), len(row["rejected"][0]["content"].split())) for row in made]
    assert all(chosen >= 20 > rejected for chosen, rejected in words)


def test_a_judge_that_names_no_model_is_the_policy_and_one_engine_does_both(tmp_path, engine, assay):
    def answer(request, k):
        text = request.messages[-1]["content"]
        return f"answer {k} {'a' * k}" if text.startswith("question") else f"Score: {text.count('aaa')}"

    engine.answer = answer
    source = prompts(tmp_path / "in.jsonl", 2)
    code, _, err = assay("pairs", source, "--scorer", "self-rewarding,votes=1", "--policy", POLICY,
                         "--format", "jsonl", "-o", tmp_path / "out")  # fmt: skip
    assert code == 0, err
    told = json.loads((tmp_path / "out" / "account.json").read_text())
    assert told["scorer"]["model"] == told["policy"]["model"] == "fake"
    assert read(tmp_path / "out" / "pairs.jsonl")[0]["chosen"][0]["content"] == "answer 3 aaa"


def test_rows_that_have_their_responses_need_no_policy(tmp_path, engine, assay):
    source = rows(tmp_path / "in.jsonl", *({"prompt": f"q{i}", "answers": ["a", "bb", "c"]} for i in range(3)))
    code, _, err = assay("pairs", source, "--scorer", "length", "--map", "responses=answers", "--format", "jsonl",
                         "-o", tmp_path / "out")  # fmt: skip
    assert code == 0, err
    assert len(read(tmp_path / "out" / "pairs.jsonl")) == 3 and not engine.asked
    assert json.loads((tmp_path / "out" / "account.json").read_text())["policy"] is None


# -- new prompts ----------------------------------------------------------------------------------------------

SEEDS = [f"seed {name} {name} stands" for name in ("alpha", "beta", "gamma", "delta", "zeta", "eta", "iota", "kappa")]


@pytest.mark.parametrize("store", [False, True])
def test_new_prompts_of_seeds_are_answered_and_the_same_again_asks_nothing(tmp_path, engine, assay, store):
    source = rows(tmp_path / "seeds.jsonl", *({"prompt": seed} for seed in SEEDS))
    command = ["pairs", source, "--scorer", "length", "--policy", POLICY, "--format", "jsonl", "--instruct", 5]
    command += ["--store", tmp_path / "all.sqlite"] if store else []
    code, _, err = assay(*command, "-o", tmp_path / "out")
    assert code == 0 and "5 new prompts" in err, err
    made = read(tmp_path / "out" / "prompts.jsonl")
    assert [row["id"] for row in made] == [f"made-{n}" for n in range(1, 6)]
    assert not {row["prompt"] for row in made} & set(SEEDS)
    pairs = read(tmp_path / "out" / "pairs.jsonl")
    assert [row["prompt"][0]["content"] for row in pairs] == [row["prompt"] for row in made]
    asked = len(engine.asked)
    assert asked == 32 + 5, "one round of new prompts, and a request for each of the five"
    assert assay(*command, "-o", tmp_path / "out")[0] == 0 and len(engine.asked) == asked
    assert (tmp_path / "all.sqlite").exists() == store
    if store:  # also into another folder
        assert assay(*command, "-o", tmp_path / "other")[0] == 0 and len(engine.asked) == asked
        assert not (tmp_path / "out" / "candidates.jsonl.run" / "candidates.sqlite").exists()


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ([{"prompt": "fine"}, {"other": 1}], "row 2: the row has no prompt; a seed needs a prompt"),
        ([{"prompt": [{"role": "assistant", "content": "a"}]}], "seed 1 of 1 is empty"),
        ([], "there are no seeds"),
    ],
)
def test_seeds_that_are_none_say_which(tmp_path, engine, assay, seeds, says):
    source = rows(tmp_path / "seeds.jsonl", *seeds)
    code, _, err = assay("pairs", source, "--scorer", "length", "--policy", POLICY, "--instruct", 5, "-o",
                         tmp_path / "out")  # fmt: skip
    assert code == 2 and says in err and not engine.asked


def test_new_prompts_are_not_written_over_their_seeds(tmp_path, engine, assay):
    (tmp_path / "out").mkdir()
    source = rows(tmp_path / "out" / "prompts.jsonl", *({"prompt": seed} for seed in SEEDS))
    code, _, err = assay("pairs", source, "--scorer", "length", "--policy", POLICY, "--instruct", 5, "-o",
                         tmp_path / "out")  # fmt: skip
    assert code == 2 and "written over the seeds" in err and len(read(tmp_path / "out" / "prompts.jsonl")) == 8


# -- what cannot run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.jsonl"], "no file 'nowhere.jsonl'"),
        (["folder"], "'folder' is a folder; give one of its files"),
        (["in.jsonl", "--choose", "worst"], "unknown strategy 'worst'; there are best-worst, best-random, all, top-k"),
        (["in.jsonl", "--choose", "all", "--length-tolerance", "0.1"], "no effect on the strategy 'all'"),
        (["in.jsonl", "--length-tolerance", "1"], "from 0 to below 1"),
        (["in.jsonl", "--margin", "inf"], "margin must be at least 0"),
        (["in.jsonl", "--format", "csv"], "--format is parquet or jsonl, not 'csv'"),
        (["in.jsonl", "--against", "nowhere.jsonl"], "nowhere"),
        (["in.jsonl", "--scorer", "lenght"], "unknown scorer 'lenght'"),
        (["in.jsonl", "--policy", ""], "'length' writes no candidates: name a model that does with --policy MODEL"),
        (["in.jsonl", "--policy", "fake,engine=transformers,temperature=0"], "4 candidates at temperature 0"),
        (["in.jsonl", "--map", "prompt=nothing"], "no column 'nothing'"),
        (["in.jsonl", "-o", "in.jsonl"], "cannot be written"),
        (["out/pairs.jsonl", "-o", "out"], "would be overwritten"),
    ],
)
def test_what_cannot_run_is_one_line_and_exit_2_and_asks_nothing(tmp_path, engine, assay, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    prompts(tmp_path / "in.jsonl")
    for name in ("folder", "out"):
        (tmp_path / name).mkdir()
        prompts(tmp_path / name / "pairs.jsonl")
    defaults = {"--scorer": "length", "--policy": POLICY, "-o": "new"}
    for option, value in defaults.items():
        if option not in arguments:
            arguments = [*arguments, option, value]
    code, out, err = assay("pairs", *arguments)
    assert code == 2 and err.startswith("assay: ") and err.count("\n") == 1 and says in err and not out
    assert not engine.asked and not (tmp_path / "new" / "account.json").exists()
    assert len(read(tmp_path / "out" / "pairs.jsonl")) == 12
    if says not in ("no column 'nothing'",):
        assert not (tmp_path / "new").exists()


def test_an_empty_file_says_so(tmp_path, engine, assay):
    source = rows(tmp_path / "in.jsonl")
    code, _, err = assay("pairs", source, "--scorer", "length", "--policy", POLICY, "-o", tmp_path / "out")
    assert code == 2 and "there are no rows in it" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "scorer", "says"),
    [
        (lambda r, k: "always this", "length", "use a higher temperature or top_p"),
        (lambda r, k: f"word {k}", "length", "all candidates have the same score; ask for more votes"),
        (lambda r, k: " " * k, "length", "another policy, or its chat template"),
        (lambda r, k: f"Score: {3 if r.n == 1 else k}", "self-rewarding,votes=1", "all candidates have the same score"),
        (lambda r, k: "?" * (k + 1), "self-rewarding,votes=1", "failures by reason in account.json"),
    ],
)
def test_no_pair_at_all_is_one_line_with_what_to_change_and_exit_2(tmp_path, engine, assay, answer, scorer, says):
    engine.answer = answer
    source = prompts(tmp_path / "in.jsonl")
    code, _, err = assay("pairs", source, "--scorer", scorer, "--policy", POLICY, "-o", tmp_path / "out", "--quiet")
    assert code == 2 and "no pair is left of 12 prompts" in err and says in err and err.count("\n") == 1
    assert (tmp_path / "out" / "account.json").exists() and len(read(tmp_path / "out" / "candidates.jsonl")) == 12
    assert not list((tmp_path / "out").glob("pairs.*"))


def test_help_has_an_example_and_a_run_in_a_process_of_its_own_exits_0(tmp_path):
    told = subprocess.run([*ASSAY, "pairs", "--help"], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0 and "Example: assay pairs" in told.stdout
    source = rows(tmp_path / "in.jsonl", {"prompt": "q", "responses": ["a", "bb"]})
    command = [*ASSAY, "pairs", source, "--scorer", "length", "-o", str(tmp_path / "out")]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0 and "gave pairs" in told.stdout, told.stderr
    assert (tmp_path / "out" / "pairs.parquet").exists()


# -- the hub --------------------------------------------------------------------------------------------------


class Hub:
    """What HfApi is asked for; what it would upload is worked out by the library's own filter."""

    def __init__(self, error=None):
        self.asked, self.uploaded, self.error = [], None, error

    def create_repo(self, name, **settings):
        self.asked.append((name, settings))
        if self.error:
            raise self.error

    def upload_folder(self, folder_path, allow_patterns, **settings):
        from huggingface_hub.utils import filter_repo_objects

        files = [str(f.relative_to(folder_path)) for f in folder_path.rglob("*") if f.is_file()]
        self.uploaded = set(filter_repo_objects(files, allow_patterns=allow_patterns))
        self.asked.append((settings["repo_id"], settings))
        return "https://hub/datasets/me/mine/commit/1"


def digests(folder):
    return {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()}


def test_push_uploads_what_a_reader_needs_to_a_private_dataset_and_no_store_journal_or_manifest(
    tmp_path, engine, assay, monkeypatch
):
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    seeds = rows(tmp_path / "seeds.jsonl", *({"prompt": seed} for seed in SEEDS))
    code, _, err = assay("pairs", seeds, "--scorer", "length", "--policy", POLICY, "--instruct", 5, "-o",
                         tmp_path / "out", "--push", "me/mine")  # fmt: skip
    assert code == 0 and err.rstrip().endswith("https://hub/datasets/me/mine/commit/1")
    (name, created), (also, uploaded) = hub.asked
    assert name == also == "me/mine" and created["private"] is True and created["exist_ok"] is True
    assert created["repo_type"] == uploaded["repo_type"] == "dataset"
    assert hub.uploaded == {
        *("README.md", "account.json", "pairs.parquet", "candidates.jsonl"),
        *("plots/scores.png", "plots/margins.png", "plots/lengths.png"),
    }
    kept = {f.name for f in (tmp_path / "out" / "candidates.jsonl.run").iterdir()}
    assert "manifest.json" in kept and "candidates.sqlite" in kept


def unreachable():
    """What the library raises where no hub answers: of its own HTTP client."""
    from huggingface_hub.errors import HfHubHTTPError

    client = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    module = __import__(client.__module__.partition(".")[0])
    return module.ConnectError("[Errno -2] Name or service not known\nmore of it")


def offline():
    from huggingface_hub.errors import OfflineModeIsEnabled

    return OfflineModeIsEnabled("Cannot reach https://huggingface.co: offline mode is enabled.")


@pytest.mark.parametrize("error", [unreachable, offline, lambda: OSError("no disk"), lambda: ConnectionError()])
def test_a_hub_that_cannot_be_reached_is_one_line_and_the_folder_stays(tmp_path, engine, assay, monkeypatch, error):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub(error()))
    source = rows(tmp_path / "in.jsonl", {"prompt": "q", "responses": ["a", "bb"]})
    code, _, err = assay("pairs", source, "--scorer", "length", "-o", tmp_path / "out", "--push", "me/mine", "--quiet")
    assert code == 2 and err.startswith("assay: --push me/mine: ") and err.count("\n") == 1
    assert f"the data is in {tmp_path / 'out'}" in err and "run the same command again" in err
    before = digests(tmp_path / "out")
    with pytest.raises(CannotRun, match="--push me/mine"):
        push_to_hub(tmp_path / "out", "me/mine")
    assert digests(tmp_path / "out") == before and (tmp_path / "out" / "pairs.parquet").exists()


def test_a_real_client_that_nobody_answers_is_one_line(tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9", token="none"))
    with pytest.raises(CannotRun, match=r"--push me/mine: .*refused"):
        push_to_hub(tmp_path, "me/mine")
    with pytest.raises(CannotRun, match="--push a/b/c: "):
        push_to_hub(tmp_path, "a/b/c")


def test_a_folder_that_is_not_writable_is_one_line(tmp_path):
    from judges.scorers.baselines import Length

    (tmp_path / "file").write_text("")
    source = rows(tmp_path / "in.jsonl", {"prompt": "q", "responses": ["a", "bb"]})
    with pytest.raises(CannotRun, match="cannot be written"):
        make_pairs(source, Length(), None, tmp_path / "file" / "out")
