"""Text before a model sees it: chat templates and the variables that a stage sets in them."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from transformers import AutoTokenizer

from asd.engines.hf.engine import TransformersEngine
from asd.engines.prompts import as_read, check, check_template, encode
from asd.errors import ConfigError, EngineError, RefusedError
from asd.ladder import Ladder, Stage
from asd.types import Query

SMALL = Ladder.load("tiny").stages[0]
ASKED = Query("q", "d", "add 2+3", max_new_tokens=4)
TEMPLATE = (
    "{{ bos_token + messages[-1]['content'] + '\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '==' }}{% endif %}"
    "{% for tool in tools or [] %}{{ tool }}{% endfor %}"
    "{% if add_generation_prompt %}{% endif %}"
)


@functools.cache
def tokenizer() -> Any:
    loaded = AutoTokenizer.from_pretrained(SMALL.model)
    loaded.chat_template = TEMPLATE
    return loaded


def stage(**kwargs: object) -> Stage:
    return replace(SMALL, chat_template_kwargs=kwargs)


def test_template_variables_reach_the_template() -> None:
    """A prompt is what the template makes of it with the stage's variables."""
    assert as_read(ASKED, stage(), tokenizer()) == "<s>add 2+3\n"
    assert as_read(ASKED, stage(enable_thinking=False), tokenizer()) == "<s>add 2+3\n=="
    assert as_read(ASKED, stage(enable_thinking=True), tokenizer()) == "<s>add 2+3\n"
    assert len(encode(ASKED, stage(enable_thinking=False), tokenizer(), 256, 999)) == 2 + len(
        encode(ASKED, stage(), tokenizer(), 256, 999)
    )


@pytest.mark.parametrize(
    "name", ["enable_thinkin", "thinking", "tokenize", "add_generation_prompt", "chat_template"]
)
def test_a_variable_that_the_template_does_not_have(name: str) -> None:
    """A template would ignore a misspelt variable, so it is refused; so is what is no variable."""
    with pytest.raises(ConfigError, match=f"stage 'S'.* has no variable '{name}'"):
        check_template(stage(**{name: False}), tokenizer())


def test_a_variable_that_the_template_has() -> None:
    """It is accepted whatever its value, and whether the library knows it or not."""
    check_template(stage(enable_thinking=None, tools=[]), tokenizer())


def test_variables_without_a_template() -> None:
    """They are for a chat template; a ladder whose stage has none is refused."""
    alone = replace(stage(enable_thinking=False), chat_template=False)
    with pytest.raises(ConfigError, match="chat_template_kwargs are for a chat template"):
        Ladder("one", (alone,), "declared", "made up")


def test_the_transformers_engine_sets_the_variables(tmp_path: Path) -> None:
    """The model reads what the template makes of them; a wrong one is refused when the stage is loaded."""
    own = copytree(SMALL.model, tmp_path / "S")
    (own / "chat_template.jinja").write_text(TEMPLATE)
    drafts = [
        TransformersEngine(replace(stage(**kwargs), model=str(own)), "cpu").generate([ASKED])[0]
        for kwargs in ({}, {"enable_thinking": False})
    ]
    assert [draft.usage.n_prompt for draft in drafts] == [7, 9]
    with pytest.raises(ConfigError, match="no variable 'thinking'"):
        TransformersEngine(replace(stage(thinking=False), model=str(own)), "cpu").load()


@pytest.mark.parametrize("prompt", ["add 1\udce9", "\ud83d", "a\udfff"])
def test_a_prompt_that_is_no_utf_8(prompt: str) -> None:
    """Bytes that are no text are refused by the query's name before a tokenizer sees them."""
    with pytest.raises(ConfigError, match="query 'q' of 'd' has a prompt with bytes that are not UTF-8"):
        check(replace(ASKED, prompt=prompt))
    check(replace(ASKED, prompt="\U0001f600 é"))


LOOP = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def with_template(template: object) -> Any:
    loaded = AutoTokenizer.from_pretrained(SMALL.model)
    loaded.chat_template = template
    return loaded


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system prompt') }}{% endif %}",
            "no system prompt",
        ),
        (
            "{% if messages|length % 2 %}{{ raise_exception('roles must alternate') }}{% endif %}",
            "roles must alternate",
        ),
        (LOOP.removesuffix("{% endfor %}"), "TemplateSyntaxError: Unexpected end of template"),
        ("{{ messages[0]['content'] | nofilter }}", "TemplateAssertionError: No filter named 'nofilter'"),
        ("{{ settings.system + messages[0]['content'] }}", "UndefinedError: 'settings' is undefined"),
        (
            "{{ messages[0]['content'][0]['text'].strip() }}",
            "UndefinedError: 'str object' has no attribute 'text'",
        ),
        ("{{ messages[0]['content'] + 1 }}", "TypeError: "),
        ("{{ messages.append({}) }}", "SecurityError: "),
        ({"rag": LOOP, "tool_use": LOOP}, "ValueError: "),
        ("{% for part in messages[0]['parts'] %}{{ part }}{% endfor %}", "leaves the user's message out"),
        ("", "leaves the user's message out"),
        (LOOP + "\0", r"is damaged: it writes the character '\x00'"),
        ("\ufffd" + LOOP, r"is damaged: it writes the character '\ufffd'"),
    ],
)
def test_templates_that_cannot_take_a_prompt_are_refused_at_load(template: object, message: str) -> None:
    """A template that raises, is broken or drops what the user says: stage, words and remedy."""
    with pytest.raises(EngineError) as raised:
        check_template(stage(), with_template(template))
    said = str(raised.value)
    assert said.startswith(f"stage 'S': the chat template of {SMALL.model} ")
    assert message in said
    assert said.endswith(
        "; correct it where the tokenizer's files are, or set chat_template = false in the ladder"
    )
    check_template(replace(SMALL, chat_template=False), with_template(template))


def test_a_default_among_several_templates_is_taken() -> None:
    """Where a tokenizer has named templates, the one for plain chats counts."""
    check_template(stage(), with_template({"default": LOOP, "tool_use": "{{ raise_exception('no tools') }}"}))


def test_a_template_that_fails_on_one_prompt_refuses_that_query() -> None:
    """What a template objects to in a prompt says nothing of the stage."""
    picky = with_template(
        "{% if '[INST]' in messages[0]['content'] %}{{ raise_exception('control') }}{% endif %}" + LOOP
    )
    check_template(stage(), picky)
    assert as_read(ASKED, stage(), picky) == "add 2+3"
    with pytest.raises(
        RefusedError, match=r"query .q. of .d.: the chat template of stage .S. fails on it: .*control; ch"
    ):
        encode(replace(ASKED, prompt="[INST] x"), stage(), picky, 256, 999)


def test_a_stage_with_a_broken_template_does_not_load(tmp_path: Path) -> None:
    """The fault is told when the stage is loaded, not at the first question."""
    copytree(SMALL.model, tmp_path, dirs_exist_ok=True)
    with_template("{{ raise_exception('System role not supported') }}").save_pretrained(tmp_path)
    engine = TransformersEngine(replace(SMALL, model=str(tmp_path)), "cpu")
    with pytest.raises(EngineError, match="System role not supported; correct it where"):
        engine.load()


NOW = "{{ strftime_now('%d %b %Y') }}"


@pytest.mark.parametrize(
    "template",
    [
        NOW,
        {"default": "{% set d = strftime_now('%Y') %}{{ d }}", "tool_use": ""},
        "{% if messages[0]['role'] == 'system' %}" + NOW + "{% endif %}",
        "{{ strftime_now('%Y')[2:] }}",
        "{{ strftime_now('%-d') }}",
        "{{ strftime_now('%j') | int + 1 }}",
        "{% if strftime_now('%H') | int < 12 %}Good morning{% endif %}",
        "{% if strftime_now('%Y') > '2043' %}{{ raise_exception('expired') }}{% endif %}",
        "{% set clock = strftime_now %}{{ clock('%A') }}",
    ],
)
def test_a_template_that_looks_at_the_date_is_warned_of(
    caplog: pytest.LogCaptureFixture, template: str | dict[str, str]
) -> None:
    """Printed whole, in part, as a number or under a system message only, or merely looked at."""
    whole = {"default": template} if isinstance(template, str) else template
    check_template(stage(), with_template({name: text + LOOP for name, text in whole.items()}))
    assert caplog.text.count("looks at today's date") == 1


@pytest.mark.parametrize(
    "template",
    [
        "{{ '26 Jul 2024' }}",
        "{% if tools %}" + NOW + "{% endif %}",
        "{% set unused = strftime_now('%Y') %}",
        "{% if strftime_now is defined %}{{ 'modern' }}{% endif %}",
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{{ strftime_now }}{% endif %}",
    ],
)
def test_a_template_that_changes_nothing_with_the_date_is_not(
    caplog: pytest.LogCaptureFixture, template: str
) -> None:
    """A constant, a date that is never printed, an instruction that it refuses on any day."""
    check_template(stage(), with_template(template + LOOP))
    assert caplog.text == ""


def test_a_date_that_the_ladder_sets_is_no_longer_today_s(caplog: pytest.LogCaptureFixture) -> None:
    """As the templates of Llama 3 have it: a variable, and today where it is not given."""
    template = with_template(
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ date_string }}" + LOOP
    )
    check_template(stage(date_string="26 Jul 2024"), template)
    assert caplog.text == ""
    check_template(stage(), template)
    assert "looks at today's date" in caplog.text
