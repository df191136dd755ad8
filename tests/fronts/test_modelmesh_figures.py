"""What ModelMesh is told, from what is known: sizes of models that are not loaded, capacity, the environment."""

import pytest
from helpers import PATIENCE_S

import hostd
from hostd.fronts.modelmesh.parameters import capacity_bytes, overrides_of
from hostd.fronts.modelmesh.sizes import LEAST_BYTES, disk_bytes_of, predicted_bytes, seen_bytes_of
from hostd.records import MemoryInfo, SizeEstimate

MIB = 2**20


@pytest.mark.parametrize(
    ("estimate", "disk_bytes", "seen_bytes", "expected"),
    [
        (SizeEstimate(5, "remembered"), 900 * MIB, 900 * MIB, 5),
        (SizeEstimate(5, "declared"), None, None, 5),
        (SizeEstimate(5, "estimated"), None, None, LEAST_BYTES),
        (SizeEstimate(90 * MIB, "estimated"), 50 * MIB, None, 100 * MIB),
        (None, 50 * MIB, 60 * MIB, 120 * MIB),
        (None, None, None, 7),
    ],
)
def test_of_several_guesses_the_one_that_knows_most_counts(estimate, disk_bytes, seen_bytes, expected):
    assert predicted_bytes(estimate, disk_bytes, seen_bytes, 7) == expected


@pytest.mark.parametrize(
    "key", ["", "{", "[1]", "{}", '{"disk_size_bytes": true}', '{"disk_size_bytes": -1}', "1" * 5000]
)
def test_a_key_that_says_nothing_of_the_files_is_taken_for_none(key):
    assert disk_bytes_of(key) is None


def test_a_look_at_the_files_ends_in_time(tmp_path):
    (tmp_path / "file").write_bytes(bytes(10))
    assert seen_bytes_of(str(tmp_path), PATIENCE_S) == seen_bytes_of(str(tmp_path / "file"), 0) == 10
    assert [seen_bytes_of(str(tmp_path), -1), seen_bytes_of("", 1), seen_bytes_of("/a\0b", 1)] == [None, None, None]


@pytest.mark.parametrize("value", ["x", "-1", "0", "1.5", "٣", "9" * 30])
def test_a_number_in_the_environment_is_checked(value):
    with pytest.raises(hostd.InvalidArgumentError, match="CONTAINER_MEM_REQ_BYTES in the host's environment must be"):
        overrides_of({"CONTAINER_MEM_REQ_BYTES": value})


def test_a_container_leaves_what_its_adapters_would_and_nothing_is_refused():
    overrides = overrides_of({"CONTAINER_MEM_REQ_BYTES": str(300 * MIB)})
    assert capacity_bytes(overrides, MemoryInfo()) == 44 * MIB
    with pytest.raises(hostd.FailedPreconditionError, match="CONTAINER_MEM_REQ_BYTES less MEM_BUFFER_BYTES is -"):
        capacity_bytes(overrides_of({"CONTAINER_MEM_REQ_BYTES": str(MIB)}), MemoryInfo())
    with pytest.raises(hostd.FailedPreconditionError, match=r"of the budget of 5 bytes \(memory.budget\) 0 are left"):
        capacity_bytes(overrides_of({}), MemoryInfo(budget_bytes=5, free_bytes=0))
