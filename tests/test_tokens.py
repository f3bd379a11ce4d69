from __future__ import annotations

import base64
import json
import math
import random
import stat
import string
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.config import load
from banditroute.core.errors import (
    ConfigError,
    DecisionIdError,
    ForeignDecisionId,
    ForgedDecisionId,
    MalformedDecisionId,
    StoreKeyMismatch,
    StoreUnavailable,
)
from banditroute.core.settings import MAX_FEATURES, MAX_NAME_BYTES
from banditroute.tokens import MAX_ID_LENGTH, DecisionToken, SigningKey, TokenSigner, uuid7
from banditroute.wiring import KEYS_FILE, load_keys, new_key, read_keys

K1, K2, K3 = (new_key(f"k{i}", random.Random(i)) for i in (1, 2, 3))
SIGNER = TokenSigner([K1], "log-a")
ALPHABET = string.ascii_letters + string.digits + "-_"


def token(category: str = "summarise", model: str = "gpt-4o", context: tuple[float, ...] = (0.5, -2.0)) -> DecisionToken:
    return DecisionToken(
        uuid7(1_800_000_000_123, 42), category, model, 0.1234567890123, 0.75, 0.5, 0.25, 900, 17, b"schema!!", context
    )


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=96).filter(
    lambda s: len(s.encode()) <= MAX_NAME_BYTES
)
floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=200)
@given(
    st.builds(
        DecisionToken,
        decision=st.binary(min_size=16, max_size=16),
        category=names,
        model=names,
        propensity=st.floats(0, 1),
        expected_quality=floats32,
        expected_cost_usd=floats32,
        computed_cost_usd=floats32,
        input_tokens=st.none() | st.integers(0, 10**9),
        state_position=st.integers(0, 2**63),
        schema=st.binary(min_size=8, max_size=8),
        context=st.lists(floats32, max_size=MAX_FEATURES).map(tuple),
    )
)
def test_what_is_signed_is_read_back(given_token: DecisionToken) -> None:
    decision_id = SIGNER.sign(given_token)
    assert len(decision_id) <= MAX_ID_LENGTH
    assert set(decision_id) <= set(ALPHABET)
    assert SIGNER.verify(decision_id) == given_token


def test_the_longest_names_and_contexts_fit() -> None:
    decision_id = SIGNER.sign(token("ä" * 48, "m" * MAX_NAME_BYTES, (1e9,) * MAX_FEATURES))
    assert len(decision_id) == math.ceil((64 + 2 * 96 + 4 * 16 + 16) * 4 / 3) <= MAX_ID_LENGTH


def test_the_context_is_raw_and_single_precision() -> None:
    found = SIGNER.verify(SIGNER.sign(token(context=(0.1, 16_777_217.0))))
    assert found.context == struct.unpack(">2f", struct.pack(">2f", 0.1, 16_777_217.0)) == (0.10000000149011612, 16_777_216.0)


def test_the_time_is_the_decisions() -> None:
    assert token().time_ms == 1_800_000_000_123
    decision = uuid7(1_800_000_000_123, random.Random(1).getrandbits(74))
    assert decision[6] >> 4 == 7
    assert decision[8] >> 6 == 0b10


def test_entropy_is_kept_whole() -> None:
    made = {uuid7(1, 1 << bit) for bit in range(74)}
    assert len(made) == 74


@pytest.mark.parametrize(("category", "context"), [("x" * 256, ()), ("x", (1e39,)), ("x", (0.0,) * 256)])
def test_what_does_not_fit_is_refused(category: str, context: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"fit|float"):
        SIGNER.sign(token(category, context=context))


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-", "gpt-4o--"], ids=["0 spare bits", "2 or 4", "4 or 2"])
def test_every_single_other_character_is_refused(model: str) -> None:
    decision_id = SIGNER.sign(token(model=model))
    for at, here in enumerate(decision_id):
        for other in ALPHABET:
            if other != here:
                with pytest.raises(DecisionIdError):
                    SIGNER.verify(decision_id[:at] + other + decision_id[at + 1 :])


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_other_spellings_are_refused(data: st.DataObject) -> None:
    decision_id = SIGNER.sign(token())
    at = data.draw(st.integers(0, len(decision_id)))
    inserted = data.draw(st.text(min_size=1, max_size=3))
    with pytest.raises(DecisionIdError):
        SIGNER.verify(decision_id[:at] + inserted + decision_id[at:])
    with pytest.raises(DecisionIdError):
        SIGNER.verify(decision_id[:at] + decision_id[at + 1 :] if at < len(decision_id) else decision_id + "=")


@given(st.text(max_size=600) | st.binary(max_size=380).map(lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode()))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(DecisionIdError):
        SIGNER.verify(text)


@pytest.mark.parametrize("text", ["", "x", "x" * 513, "ü" * 120, "!" * 120, "A" * 120, " " + "A" * 119])
def test_malformed(text: str) -> None:
    with pytest.raises(MalformedDecisionId):
        SIGNER.verify(text)


def test_plus_and_slash_are_not_our_alphabet() -> None:
    for number in range(200):
        decision_id = SIGNER.sign(token()._replace(state_position=number))
        if "-" in decision_id or "_" in decision_id:
            break
    with pytest.raises(ForgedDecisionId):
        SIGNER.verify(decision_id.replace("-", "+").replace("_", "/"))


def test_forged_foreign_key_and_foreign_log_are_told_apart() -> None:
    decision_id = SIGNER.sign(token())
    with pytest.raises(ForeignDecisionId):
        TokenSigner([K2], "log-a").verify(decision_id)
    with pytest.raises(ForeignDecisionId):
        TokenSigner([K1], "log-b").verify(decision_id)
    raw = bytearray(base64.urlsafe_b64decode(decision_id + "=" * (-len(decision_id) % 4)))
    raw[30] ^= 1  # in the propensity
    with pytest.raises(ForgedDecisionId):
        SIGNER.verify(base64.urlsafe_b64encode(raw).rstrip(b"=").decode())
    with pytest.raises(ForgedDecisionId):
        SIGNER.verify(decision_id[:-4])
    raw[30] ^= 1
    raw[0] = 2
    with pytest.raises(MalformedDecisionId, match="version"):
        SIGNER.verify(base64.urlsafe_b64encode(raw).rstrip(b"=").decode())


def test_keys_rotate_without_a_gap() -> None:
    old, added, moved, removed = ([K1], [K1, K2], [K2, K1], [K2])
    signers = [TokenSigner(keys, "log-a") for keys in (old, added, moved, removed)]
    before, after = signers[1].sign(token()), signers[2].sign(token())
    assert before == signers[0].sign(token())
    assert after == signers[3].sign(token())
    for signer in signers[1:3]:
        assert signer.verify(before) == signer.verify(after) == token()
    with pytest.raises(ForeignDecisionId):
        signers[0].verify(after)
    with pytest.raises(ForeignDecisionId):
        signers[3].verify(before)


def test_key_checks_depend_on_key_and_log_and_tell_no_secret() -> None:
    one, other_key, other_log = (
        TokenSigner([key], log).key_checks() for key, log in ((K1, "log-a"), (K2, "log-a"), (K1, "log-b"))
    )
    assert len({one, other_key, other_log}) == 3
    assert TokenSigner([K2, K1], "log-a").key_checks() == (*other_key, *one)
    assert len(one[0]) == 8
    assert one[0] not in K1.secret.hex()


def test_secrets_are_not_shown() -> None:
    for shown in (repr(K1), str(K1), f"{K1}", repr([K1]), repr(SIGNER), repr({"key": K1})):
        assert K1.secret.hex() not in shown
        assert repr(K1.secret) not in shown
    assert "k1" in repr(K1)


def test_a_signer_needs_good_keys() -> None:
    with pytest.raises(ValueError, match="at least one"):
        TokenSigner([], "log-a")
    with pytest.raises(ValueError, match="'short'") as caught:
        TokenSigner([SigningKey("short", b"fifteen bytes!!")], "log-a")
    assert "fifteen" not in str(caught.value)


# --- the keys' file ---


def write_keys(path: Path, *keys: SigningKey) -> Path:
    path.write_text(json.dumps({"keys": [{"id": key.id, "secret": key.secret.hex()} for key in keys]}))
    return path


LOCAL = load({"models": {"a": {}}, "categories": {"c": {"models": ["a"]}}}).local


def test_a_key_is_made_once_and_only_for_its_owner_to_read(tmp_path: Path) -> None:
    made = load_keys(LOCAL, tmp_path, fresh=True)
    assert stat.S_IMODE((tmp_path / KEYS_FILE).stat().st_mode) == 0o600
    assert load_keys(LOCAL, tmp_path, fresh=False) == made
    assert len(made[0].secret) == 32
    assert [path.name for path in tmp_path.iterdir()] == [KEYS_FILE]


def test_lost_keys_are_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(StoreKeyMismatch, match="restore it"):
        load_keys(LOCAL, tmp_path, fresh=False)
    assert list(tmp_path.iterdir()) == []


def test_keys_that_cannot_be_written_are_unavailable_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(StoreUnavailable, match="No space left"):
        patched.setattr("os.fsync", full)
        load_keys(LOCAL, tmp_path, fresh=True)
    assert not (tmp_path / KEYS_FILE).exists()
    assert load_keys(LOCAL, tmp_path, fresh=True) == read_keys(tmp_path / KEYS_FILE)


def test_keys_are_read_in_order(tmp_path: Path) -> None:
    assert read_keys(write_keys(tmp_path / "keys", K2, K1)) == [K2, K1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "\x00",
        '{"keys": []}',
        '{"keys": "abc"}',
        '{"keys": [{"id": "a"}]}',
        '{"keys": [{"id": "a", "secret": "5ec4e7"}]}',
        '{"keys": [{"id": "a", "secret": "not hex 5ec4e7"}]}',
        '{"keys": [{"id": "a", "secret": 5}]}',
        json.dumps({"keys": [{"id": "a", "secret": "5ec4e7" * 6}, {"id": "a", "secret": "5ec4e7" * 7}]}),
    ],
)
def test_a_wrong_keys_file_is_refused_without_a_secret(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_keys(path)
    assert caught.value.source == str(path)
    assert "5ec4e7" not in str(caught.value)


def test_a_missing_keys_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read: No such file"):
        read_keys(tmp_path / "none.json")
