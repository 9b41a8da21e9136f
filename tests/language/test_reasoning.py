"""The five-step chain: written, read back, taught."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from gream.language.prompting import Prompter
from gream.language.reasoning import (
    STEPS,
    Trace,
    load_traces,
    reasoning_row,
    save_traces,
    split_chain,
    split_unfinished,
)

TRACE = Trace(
    user=3,
    history=(4, 9, 1),
    target=6,
    evidence=(4, 1),
    kinds=("ink", "printers"),
    preference="office, Volta",
    intent="after printers comes ink",
    recommendation="ink by Volta",
    rewritten=(4, 1),
)


def test_a_written_chain_is_read_back_step_by_step(prompter: Prompter, names) -> None:  # type: ignore[no-untyped-def]
    _, answer = reasoning_row(TRACE, prompter)
    chain = split_chain(prompter.tokenizer.decode(answer))
    assert chain.well_formed
    assert chain.evidence == f"ink {names.spell(4)}; printers {names.spell(1)}"
    assert (chain.preference, chain.intent) == ("office, Volta", "after printers comes ink")
    assert chain.recommendation == "ink by Volta"
    assert chain.rewritten_history == names.spell(4) + names.spell(1)


def test_the_answer_is_the_targets_name_between_its_tags(prompter: Prompter) -> None:
    prompt, answer = reasoning_row(TRACE, prompter)
    assert prompt == prompter.reasoning(TRACE.history)
    start = answer.index(prompter.answer_start)
    assert answer[start + 1 :] == [*prompter.name_ids(6), prompter.answer_end, prompter.end_of_turn]
    assert answer.count(prompter.think_end) == 1 and answer.index(prompter.think_end) < start


def test_a_chain_with_a_missing_or_empty_step_is_not_well_formed() -> None:
    whole = "Evidence: a\nPreference: b\nIntent: c\nRecommendation: d\nHistory: e\n"
    assert split_chain(whole).well_formed
    assert not split_chain(whole.replace("Intent: c\n", "")).well_formed
    assert not split_chain(whole.replace("Intent: c", "Intent:")).well_formed
    assert split_chain("words only").evidence == "words only"


def test_traces_survive_the_disk(tmp_path: Path) -> None:
    save_traces(tmp_path, [TRACE, TRACE])
    assert load_traces(tmp_path) == [TRACE, TRACE]


def test_a_stage_of_the_curriculum_is_the_beginning_of_the_next_and_ends_after_its_step(
    prompter: Prompter,
) -> None:
    rows = [reasoning_row(TRACE, prompter, steps=steps, phrasing=2) for steps in range(1, 6)]
    assert {tuple(prompt) for prompt, _ in rows} == {tuple(prompter.reasoning(TRACE.history, 2))}
    for (_, shorter), (_, longer) in pairwise(rows):
        assert longer[: len(shorter)] == shorter and len(longer) > len(shorter)
    said = [prompter.tokenizer.decode(answer) for _, answer in rows]
    for steps, text in enumerate(said[:4], start=1):
        assert [line.split(":")[0] for line in text.split("\n")] == list(STEPS[:steps])
        assert not {prompter.end_of_turn, prompter.think_end, prompter.answer_start} & set(rows[steps - 1][1])
    assert said[3].endswith("Recommendation: ink by Volta")
    assert split_chain(said[4]).well_formed and rows[4][1][-1] == prompter.end_of_turn


def test_a_chain_is_tokenised_as_the_text_that_is_read_back(prompter: Prompter) -> None:
    _, answer = reasoning_row(TRACE, prompter)
    text = prompter.tokenizer.decode(answer)
    assert prompter.tokenizer.encode(text, add_special_tokens=False) == answer


def test_an_unfinished_chain_shows_the_steps_that_it_has_reached() -> None:
    whole = "Evidence: ink a\nPreference: office\nIntent: more\nRecommendation: pens\nHistory: x"
    grown = [split_unfinished(whole[:end]) for end in range(len(whole) + 1)]
    assert not any(chain.well_formed for chain in grown)
    assert not any(
        step.rstrip().endswith(("\nPref", "\nInten", "\nH"))
        for c in grown
        for step in vars(c).values()
        if step
    )
    assert grown[0].evidence == grown[9].evidence == "" and grown[11].evidence == "i"
    assert [chain.preference for chain in grown if chain.preference][0] == "o"
    last = vars(grown[-1]) | {"well_formed": True}
    assert (
        last
        == vars(split_chain(whole))
        == vars(split_unfinished(whole + " </think> y")) | {"well_formed": True}
    )
    assert split_unfinished("noise Evidence: a Preference: b").evidence == "noise Evidence: a Preference: b"
    assert split_unfinished("noise").evidence == "noise"
