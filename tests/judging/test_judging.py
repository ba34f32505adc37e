"""A judge scores the answers of a run or compares those of two; what it cannot say is counted and in no mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation.evaluate import describe_model
from bitnet_bench.judging.judge import judge_runs, sign_judge
from bitnet_bench.judging.prompts import read_prompt
from bitnet_bench.runs.folder import load_record, load_samples
from bitnet_bench.runs.jobs import EvaluateJob, JudgeJob
from bitnet_bench.runs.records import Estimated, HumanJudgement, JudgedScore, RatedItem, RunRecord, Unavailable
from tests.judging.made_up import TASK, FakeLM, give_points, open_fake, prefer_longer, write_open_run

JUDGE = "demo"
RUNTIME = EvaluateJob(backend="ternary")


def judge(folders: list[Path], lm: FakeLM, job: JudgeJob | None = None) -> list[JudgedScore]:
    """Return the one score of each run, after *lm* judged it."""
    records = judge_runs(folders, JUDGE, job or JudgeJob(), RUNTIME, open_judge=open_fake(lm))
    return [record.judged[-1] for record in records]


def value(number: Estimated | Unavailable) -> float:
    """Return a number that is known."""
    assert isinstance(number, Estimated)
    return number.value


def test_points_are_averaged_by_question_turn_and_category(run: Path) -> None:
    """Every answer says the points that it gets: 1 to 10, twice, in either turn."""
    (score,) = judge([run], FakeLM(give_points))
    assert value(score.score) == 5.5
    assert [value(turn) for turn in score.turns] == [5.5, 5.5]
    assert (score.questions, score.complete, score.verdicts, score.unparsable) == (20, 20, 40, 0)
    assert {name: value(part.score) for name, part in score.categories.items()} == {"글쓰기": 5.5, "수학": 5.5}
    assert [value(turn) for turn in score.categories["글쓰기"].turns] == [5.0, 6.0]
    assert isinstance(score.score, Estimated)
    assert score.score.interval is not None


def test_a_judged_score_is_no_measured_score(run: Path) -> None:
    """It stands in a field of its own, with everything that decides it, and the record keeps it."""
    (score,) = judge([run], FakeLM(give_points))
    record = load_record(run)
    assert record.scores == ()
    assert record.judged == (score,)
    for part in ("judge:demo", "weights:", "backend:ternary", "prompt:single-ko@1", "prompt_sha256:", "parser:1"):
        assert part in score.signature


def test_verdicts_with_reasons_stand_in_the_run_folder(run: Path) -> None:
    """Each line has the reply as the judge wrote it, and what was read out of it."""
    (score,) = judge([run], FakeLM(give_points))
    lines = [json.loads(line) for line in (run / score.verdicts_file).read_text().splitlines()]
    assert len(lines) == 40
    assert lines[0]["reply"] == "이유입니다.\n점수: [[1]]"
    assert lines[0]["score"] == 1.0


def test_unparsable_verdicts_are_counted_and_in_no_mean(run: Path) -> None:
    """The second turn of question 0 is answered with 4; of it no verdict is read, so the question has no mean."""
    (score,) = judge([run], FakeLM(lambda prompt: "모르겠다" if "질문 0의 1" in prompt else give_points(prompt)))
    assert (score.unparsable, score.reasons) == (1, {"no verdict": 1})
    assert (score.complete, score.questions) == (19, 20)
    assert value(score.score) == pytest.approx((20 * 5.5 - 2.5) / 19)
    assert value(score.turns[0]) == 5.5
    assert value(score.turns[1]) == pytest.approx((20 * 5.5 - 4) / 19)


def test_a_judge_that_says_nothing_gives_no_score(run: Path) -> None:
    """Not zero, not the middle: there is none, and the reason says so."""
    (score,) = judge([run], FakeLM(lambda prompt: ""))
    assert score.score == Unavailable(reason="no verdict could be read")
    assert score.unparsable == score.verdicts == 40


def test_the_second_turn_shows_the_first_and_references_where_there_are_any(run: Path) -> None:
    """The judge reads the conversation; the reference of the made-up questions is one of the second turn."""
    lm = FakeLM(give_points)
    judge([run], lm, JudgeJob(limit=1))
    first, second = lm.asked
    assert "질문 0의 1" not in first
    assert "참고 답변]" not in first
    assert "[1번째 질문에 대한 AI의 답변]\n1\n" in second
    assert "[참고 답변]\n정답\n" in second


def test_a_killed_judge_resumes_with_what_is_missing(tmp_path: Path) -> None:
    """The verdicts are those of an uninterrupted run, byte for byte, and none is asked twice but those of a group."""
    answers = [[str(1 + i % 10), "5"] for i in range(20)]
    whole, killed = (write_open_run(tmp_path / at / "run", answers) for at in ("a", "b"))
    (uninterrupted,) = judge([whole], FakeLM(give_points))

    def fail_later(prompt: str) -> str:
        if "질문 10의 0" in prompt:
            raise KeyboardInterrupt
        return give_points(prompt)

    with pytest.raises(KeyboardInterrupt):
        judge([killed], FakeLM(fail_later))
    (file,) = (killed / "judged").iterdir()
    assert len(file.read_bytes().splitlines()) == 16
    lm = FakeLM(give_points)
    (resumed,) = judge([killed], lm)
    assert len(lm.asked) == 24
    assert resumed == uninterrupted
    assert file.read_bytes() == (whole / uninterrupted.verdicts_file).read_bytes()


def test_a_half_written_line_is_asked_again(run: Path) -> None:
    """The group of a line that a kill cut short is asked as a whole, so that its batch is the same."""
    judge([run], FakeLM(give_points))
    (file,) = (run / "judged").iterdir()
    file.write_bytes(file.read_bytes()[:-10])
    lm = FakeLM(give_points)
    (score,) = judge([run], lm)
    assert len(lm.asked) == 8
    assert value(score.score) == 5.5


def test_a_smaller_limit_loses_no_verdicts(run: Path) -> None:
    """What was judged beyond it stays in the file, and is not asked for again."""
    (whole,) = judge([run], FakeLM(give_points))
    (few,) = judge([run], FakeLM(give_points), JudgeJob(limit=3))
    assert (few.verdicts, len((run / few.verdicts_file).read_text().splitlines())) == (6, 40)
    again = FakeLM(give_points)
    assert judge([run], again) == [whole]
    assert again.asked == []


def test_the_files_and_the_arithmetic_of_a_judge_are_in_its_signature(tmp_path: Path) -> None:
    """Another chat template, or other activations, make other verdicts of the same weights."""
    prompt = read_prompt("single")
    plain = describe_model(JUDGE, RUNTIME)
    edited = plain.model_copy(update={"inputs": plain.inputs | {"chat template": "0" * 64}})
    rounded = describe_model(JUDGE, EvaluateJob(backend="ternary", activations="int8"))
    assert len({sign_judge(one, prompt, JudgeJob()) for one in (plain, edited, rounded)}) == 3


def test_finished_verdicts_need_no_judge(run: Path) -> None:
    """The second call loads no model; a judge that would be asked is an error."""
    (first,) = judge([run], FakeLM(give_points))
    lm = FakeLM(lambda prompt: pytest.fail("the judge was asked again"))
    assert judge([run], lm) == [first]
    assert len(load_record(run).judged) == 1


def test_another_prompt_or_judge_setting_is_another_score(run: Path, tmp_path: Path) -> None:
    """Both stand in the record, each with its signature."""
    own = tmp_path / "own.yaml"
    own.write_text('name: own\nversion: "2"\nmode: single\nscale: [0, 5]\nuser: "{{ question }} {{ answer }}"\n')
    judge([run], FakeLM(give_points))
    (score,) = judge([run], FakeLM(lambda prompt: "[[5]]"), JudgeJob(prompt=str(own)))
    assert (score.prompt, score.scale) == ("own 2", (0.0, 5.0))
    assert len({one.signature for one in load_record(run).judged}) == 2


def test_new_answers_are_judged_anew(run: Path) -> None:
    """A verdict belongs to what the judge read: other answers in the same folder are asked about."""
    judge([run], FakeLM(give_points))
    write_open_run(run, [["2", "2"]] * 20)
    lm = FakeLM(give_points)
    (score,) = judge([run], lm)
    assert (len(lm.asked), value(score.score)) == (40, 2.0)


def test_prompts_that_lost_their_beginning_are_counted(run: Path) -> None:
    """The longest prompts are those that were cut: of two turns the second, which shows the first as well."""
    shortest = FakeLM(give_points)
    judge([run], shortest, JudgeJob(limit=1))
    room = len(shortest.asked[0]) + 5
    (score,) = judge([run], FakeLM(give_points, room=room), JudgeJob(max_new_tokens=9))
    assert score.cut == 20
    lines = (run / score.verdicts_file).read_text().splitlines()
    assert [json.loads(line)["is_cut"] for line in lines] == [False, True] * 20


def test_a_judge_of_itself_is_marked(tmp_path: Path) -> None:
    """The weights decide, not the name."""
    own = write_open_run(tmp_path / "own", [["3", "3"]], model=JUDGE)
    other = write_open_run(tmp_path / "other", [["3", "3"]])
    assert judge([own], FakeLM(give_points))[0].is_own
    assert not judge([other], FakeLM(give_points))[0].is_own


def write_pair(tmp_path: Path, questions: int = 6) -> list[Path]:
    """Write a run with long answers, and one with short ones."""
    return [
        write_open_run(tmp_path / name, [[text, text]] * questions, model)
        for name, text, model in (("long", "긴 답변", "demo-fp16"), ("short", "짧음", "demo"))
    ]


def test_a_judge_of_pairs_sees_both_orders(tmp_path: Path) -> None:
    """A judge that looks at the answers has no position bias, and both records mirror each other."""
    folders = write_pair(tmp_path)
    ours, theirs = judge(folders, FakeLM(prefer_longer))
    assert (value(ours.score), value(theirs.score)) == (100.0, 0.0)
    assert (ours.wins, ours.ties, ours.losses) == (12, 0, 0)
    assert (theirs.wins, theirs.ties, theirs.losses) == (0, 0, 12)
    assert (ours.opponent, theirs.opponent) == ("short", "long")
    assert ours.position is not None
    assert theirs.position == ours.position
    assert (ours.position.pairs, ours.position.flips, value(ours.position.first)) == (12, 0, 50.0)


def test_a_judge_that_prefers_the_first_answer_is_found_out(tmp_path: Path) -> None:
    """All pairs flip, nothing is won, and the preference for the first place is 100 %."""
    ours, _ = judge(write_pair(tmp_path), FakeLM(lambda prompt: "[[A]]"))
    assert (value(ours.score), ours.wins, ours.ties, ours.losses) == (50.0, 0, 12, 0)
    assert ours.position is not None
    assert (ours.position.flip_share, value(ours.position.first)) == (100.0, 100.0)


def test_a_pair_with_one_unparsable_order_has_no_value(tmp_path: Path) -> None:
    """Half of a comparison would be a comparison with position bias."""
    folders = write_pair(tmp_path)
    ours, _ = judge(folders, FakeLM(lambda prompt: "?" if "[A의 답변 시작]\n짧음" in prompt else "[[A]]"))
    assert ours.score == Unavailable(reason="no verdict could be read")
    assert (ours.unparsable, ours.verdicts, ours.complete) == (12, 24, 0)
    assert ours.position is not None
    assert ours.position.pairs == 0
    assert ours.position.flip_share is None


def rate(folders: list[Path], wins_a: list[int]) -> None:
    """Add to both records what three people said: how many of them preferred the first run, for each question."""
    from bitnet_bench.runs.folder import save_record

    records = [load_record(folder) for folder in folders]
    said = HumanJudgement(
        sheet="5" * 64, a="long", b="short", tasks=(TASK,), items=len(wins_a), raters=("가", "나", "다"),
        a_sha256=records[0].checkpoint.sha256, b_sha256=records[1].checkpoint.sha256,
        wins_a=sum(wins_a), ties=0, wins_b=3 * len(wins_a) - sum(wins_a),
        win_rate=Estimated(value=50.0), scales={}, alpha={},
        rated=tuple(
            RatedItem(task=TASK, doc_id=i, wins_a=wins, ties=0, wins_b=3 - wins, points_a=1.0 + i, points_b=2.0)
            for i, wins in enumerate(wins_a)
        ),
    )  # fmt: skip
    for folder, record in zip(folders, records, strict=True):
        save_record(folder, record.model_copy(update={"judgements": (said,)}))


def test_a_judge_of_pairs_is_held_against_people(tmp_path: Path) -> None:
    """People prefer the first run in four of six questions, and the judge always: they agree in four."""
    folders = write_pair(tmp_path)
    rate(folders, [3, 3, 2, 2, 1, 0])
    for score in judge(folders, FakeLM(prefer_longer)):
        (people,) = score.people
        assert (people.kind, people.questions, people.raters) == ("preference", 6, 3)
        assert value(people.share) == pytest.approx(100 * 4 / 6)
        assert value(people.alpha) < 0.1


def test_points_of_a_judge_are_correlated_with_those_of_people(tmp_path: Path) -> None:
    """The judge gives more points to later questions, as people did, who used another scale."""
    folders = [
        write_open_run(tmp_path / "long", [[str(1 + i)] for i in range(6)]),
        write_open_run(tmp_path / "short", [["1"]] * 6, "demo"),
    ]
    rate(folders, [3] * 6)
    ours, theirs = judge(folders, FakeLM(give_points), JudgeJob(mode="single"))
    assert value(ours.people[0].alpha) == pytest.approx(1.0)
    assert isinstance(theirs.people[0].alpha, Unavailable)


def test_out_leaves_the_runs_as_they_are(run: Path, tmp_path: Path) -> None:
    """The verdicts and a copy of the record, with its scores, go to a folder of the run's name."""
    before = (run / "record.json").read_bytes()
    out = tmp_path / "out"
    (score,) = judge([run], FakeLM(give_points), JudgeJob(out=str(out)))
    assert (run / "record.json").read_bytes() == before
    assert not (run / "judged").exists()
    assert load_record(out / "run").judged == (score,)
    assert (out / "run" / score.verdicts_file).is_file()


def test_answers_to_other_tasks_are_judged_if_they_are_named(tmp_path: Path) -> None:
    """A generated answer to any task is one turn, with the gold answer as the reference."""
    folder = write_open_run(tmp_path / "run", [["4"]])
    (example,) = load_samples(folder, [TASK])
    from bitnet_bench.runs.folder import save_record, save_samples

    plain = example.model_copy(update={"task": "sample:qa", "turns": (), "output": "4", "target": "정답"})
    record = load_record(folder)
    samples = {**record.samples, "sample:qa": save_samples(folder, "sample:qa", [plain])}
    save_record(folder, record.model_copy(update={"samples": samples}))
    lm = FakeLM(give_points)
    (score,) = judge([folder], lm, JudgeJob(tasks=("sample:qa",)))
    assert (score.task, value(score.score)) == ("sample:qa", 4.0)
    assert "[참고 답변]\n정답\n" in lm.asked[0]


def test_a_run_without_open_answers_is_refused_with_what_to_do(tmp_path: Path) -> None:
    from bitnet_bench.runs.folder import save_record

    folder = write_open_run(tmp_path / "run", [["1"]])
    blank: RunRecord = load_record(folder).model_copy(update={"answered": {}, "samples": {}})
    save_record(folder, blank)
    with pytest.raises(BenchError, match="no open answers") as caught:
        judge([folder], FakeLM(give_points))
    assert "evaluate --suite open" in caught.value.hint


def test_pairs_need_two_runs_and_the_same_questions(tmp_path: Path) -> None:
    a = write_open_run(tmp_path / "a", [["1"]] * 3)
    b = write_open_run(tmp_path / "b", [["1"]] * 2)
    with pytest.raises(BenchError, match="did not answer the same questions"):
        judge([a, b], FakeLM(prefer_longer))
    with pytest.raises(UsageError, match="needs two runs"):
        judge([a], FakeLM(prefer_longer), JudgeJob(mode="pairwise"))
    with pytest.raises(UsageError, match="one folder"):
        judge([a, a], FakeLM(prefer_longer))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode: single\nuser: x\n", "name"),
        ('name: x\nversion: "1"\nmode: single\nscale: [10, 1]\nuser: x\n', "least score first"),
        ('name: x\nversion: "1"\nmode: single\nuser: "{{ anser }}"\n', "'anser' is undefined"),
        ('name: x\nversion: "1"\nmode: single\nuser: "{% if %}"\n', "template `user`"),
        ('name: x\nversion: "1"\nmode: single\nuser: "{{ 1 / 0 }}"\n', "division"),
        ('name: x\nversion: "1"\nmode: pairwise\nuser: x\n', "mode=pairwise"),
        ("- a\n", "not a judge's prompt"),
    ],
)
def test_a_wrong_prompt_is_refused_before_a_model_is_loaded(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(BenchError, match=said):
        read_prompt("single", file)


def test_a_prompt_of_somebody_else_cannot_reach_the_machine(tmp_path: Path) -> None:
    """Templates run in a sandbox."""
    file = tmp_path / "own.yaml"
    file.write_text('name: x\nversion: "1"\nmode: single\nuser: "{{ question.__class__.__mro__ }}"\n')
    with pytest.raises(BenchError, match="template `user`"):
        read_prompt("single", file)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "takes more than 0.2 s"),
        ("{{ 'x' * 10**10 }}", "too much memory"),
        ("{{ 'x' * 10**7 }}", "characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{% for i in range(10**9) %}x{% endfor %}", "range"),
        ("{{ gone }}", "gone"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_prompt_without_end_is_refused_before_a_model_is_loaded(
    tmp_path: Path, template: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt that somebody shares is a program: its time, memory and length are those of a chat template."""
    monkeypatch.setattr("bitnet_bench.judging.prompts.TEMPLATE_SECONDS", 0.2)
    file = tmp_path / "judge.yaml"
    file.write_text(yaml.safe_dump({"name": "n", "version": "1", "mode": "single", "user": template}))
    with pytest.raises(BenchError, match=r"judge\.yaml cannot be used") as error:
        read_prompt("single", file)
    assert why in str(error.value)
