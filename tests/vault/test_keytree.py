"""The key tree: what is cut stays cut, what is not stays derivable, and the state stays small."""

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eph_e2ee.errors import Forgotten, LocalProtocolError, VaultDamaged
from eph_e2ee.vault.keytree import KeyTree, _Node
from eph_e2ee.vault.paths import (
    LEAF_SIZE,
    MAXIMUM_EPOCH,
    MAXIMUM_GROUP,
    MAXIMUM_SEQUENCE,
    Cut,
    EpochCut,
    GroupCut,
    Leaf,
    LeafCut,
    Region,
    UntilCut,
    pack_cut,
    unpack_cut,
)
from eph_e2ee.vault.primitives import KEY_SIZE, Secret, children

ROOT = bytes(range(KEY_SIZE))
NOW = 1_750_000_000
FRONTIER = 120
"""Nodes that the unused rest of the tree takes: at most one beside each step of a path."""

GROUPS = (0, 1, 2, 5, NOW, MAXIMUM_GROUP)
SEQUENCES = (0, 1, 2, 3, 7, MAXIMUM_SEQUENCE)
EPOCHS = (0, 1, 2, MAXIMUM_EPOCH)
LEAVES = tuple(Leaf(*path) for path in product(Region, GROUPS, SEQUENCES, EPOCHS))

regions = st.sampled_from(Region)
groups = st.sampled_from(GROUPS)
epochs = st.sampled_from(EPOCHS)
leaves = st.sampled_from(LEAVES)
cuts = st.one_of(
    st.builds(LeafCut, leaves),
    st.builds(LeafCut, leaves),
    st.builds(GroupCut, regions, groups, epochs),
    st.builds(UntilCut, regions, groups, epochs),
    st.builds(EpochCut, regions, epochs),
)
any_leaves = st.builds(
    Leaf,
    regions,
    st.integers(0, MAXIMUM_GROUP),
    st.integers(0, MAXIMUM_SEQUENCE),
    st.integers(0, MAXIMUM_EPOCH),
)


def covers(cut: Cut, leaf: Leaf) -> bool:
    if isinstance(cut, LeafCut):
        return cut.leaf == leaf
    if cut.region is not leaf.region:
        return False
    if isinstance(cut, EpochCut):
        return leaf.epoch <= cut.epoch
    if isinstance(cut, GroupCut):
        return (leaf.epoch, leaf.group) == (cut.epoch, cut.group)
    return leaf.epoch == cut.epoch and leaf.group <= cut.group


def way_down(leaf: Leaf) -> list[bytes]:
    """Return every key from the root to a leaf, taken one step at a time."""
    path = f"{leaf.region:08b}{leaf.epoch:024b}{leaf.group:040b}{leaf.sequence:048b}"
    keys = [ROOT]
    for turn in path:
        keys.append(children(keys[-1])[int(turn)])
    return keys


def test_what_is_on_disk_keeps_its_meaning() -> None:
    """A fixed answer: another value here makes every existing vault unreadable."""
    leaf = Leaf(Region.EXPIRING, NOW, 7, epoch=3)
    tree = KeyTree.create(bytes(KEY_SIZE))
    assert (
        tree.derive(leaf).hex()
        == "2a1757179169a967af5dad183311f3d44dd771b69b2fae1017ee4be41c499785"
    )
    assert leaf.pack().hex() == "00" + "000003" + "00684ee180" + "000000000007"


class TestAgainstAPlainSet:
    @settings(max_examples=200)
    @given(st.lists(cuts, max_size=12))
    def test_exactly_the_cut_leaves_are_gone(self, order: list[Cut]) -> None:
        tree, living = KeyTree.create(ROOT), set(LEAVES)
        for cut in order:
            tree.cut(cut)
            living = {leaf for leaf in living if not covers(cut, leaf)}
            assert {leaf for leaf in LEAVES if tree.alive(leaf)} == living
        assert KeyTree.load(tree.export()).export() == tree.export()

    @settings(max_examples=100)
    @given(st.lists(st.one_of(cuts, any_leaves), max_size=30))
    def test_living_keys_never_change(self, steps: list[Cut | Leaf]) -> None:
        tree = KeyTree.create(ROOT)
        done: list[Cut] = []
        for step in steps:
            if not isinstance(step, Leaf):
                tree.cut(step)
                done.append(step)
            elif any(covers(cut, step) for cut in done):
                with pytest.raises(Forgotten):
                    tree.derive(step)
            else:
                assert tree.derive(step) == way_down(step)[-1]

    @settings(max_examples=50)
    @given(leaves, st.lists(cuts, max_size=6), st.lists(cuts, max_size=6))
    def test_no_later_state_holds_a_key_above_a_cut_leaf(
        self, leaf: Leaf, before: list[Cut], after: list[Cut]
    ) -> None:
        """F12: a vault's later key files, all of them together, do not bring a record back."""
        tree = KeyTree.create(ROOT)
        forbidden = way_down(leaf)
        for cut in before:
            tree.cut(cut)
        tree.cut(LeafCut(leaf))
        states = [tree.export()]
        for cut in after:
            tree.cut(cut)
            states.append(tree.export())
        for state in states:
            assert not any(key in state for key in forbidden)
            with pytest.raises(Forgotten):
                KeyTree.load(state).derive(leaf)

    @settings(max_examples=50)
    @given(st.lists(cuts, max_size=8), cuts)
    def test_cutting_twice_is_cutting_once(self, before: list[Cut], cut: Cut) -> None:
        tree = KeyTree.create(ROOT)
        for earlier in [*before, cut]:
            tree.cut(earlier)
        once = tree.export()
        tree.cut(cut)
        assert tree.export() == once


class TestSize:
    def test_a_whole_tree_is_one_node(self) -> None:
        assert len(KeyTree.create(ROOT)) == 1

    def test_expiring_takes_some_twenty_nodes_whatever_the_volume(self) -> None:
        tree = KeyTree.create(ROOT)
        sizes = []
        for now in range(NOW, NOW + 100_000, 97):
            tree.cut(UntilCut(Region.EXPIRING, now))
            sizes.append(len(tree))
        # The other regions' part of the tree is eight nodes, that of later epochs 24.
        assert max(sizes) - 32 <= 40
        assert sum(sizes) / len(sizes) - 32 < 28
        assert len(tree.export()) < 3_200

    @pytest.mark.parametrize("live", [200, 1000, 5000])
    def test_ratchet_values_take_less_than_a_node_each(self, live: int) -> None:
        """Random values overwritten, each under the next sequence, until all have been, twice."""
        choose = random.Random(live)  # noqa: S311  # a test that can be repeated
        tree = KeyTree.create(ROOT)
        current = list(range(live))
        largest = 0
        for sequence in range(live, live * 5):
            index = choose.randrange(live)
            tree.cut(LeafCut(Leaf(Region.RATCHET, 0, current[index])))
            current[index] = sequence
            largest = max(largest, len(tree))
        assert largest <= 0.75 * live + FRONTIER
        assert all(tree.alive(Leaf(Region.RATCHET, 0, sequence)) for sequence in current)

    def test_hot_ratchet_values_cost_what_the_cold_ones_leave_scattered(self) -> None:
        """Ten sessions of 1000 values are busy: the others' leaves are neighbours still."""
        tree = KeyTree.create(ROOT)
        hot = list(range(0, 1000, 100))
        for sequence in range(1000, 20_000):
            index = sequence % 10
            tree.cut(LeafCut(Leaf(Region.RATCHET, 0, hot[index])))
            hot[index] = sequence
        assert len(tree) <= 10 * 10 + FRONTIER

    def test_unread_messages_in_random_order(self) -> None:
        choose = random.Random(500)  # noqa: S311  # the same
        tree = KeyTree.create(ROOT)
        unread = list(range(500))
        largest = 0
        for sequence in range(500, 5000):
            index = choose.randrange(500)
            tree.cut(LeafCut(Leaf(Region.KEPT, 1, unread[index])))
            unread[index] = sequence
            largest = max(largest, len(tree))
        assert largest <= 500

    def test_in_order_nothing_is_left_behind(self) -> None:
        tree = KeyTree.create(ROOT)
        for sequence in range(10_000):
            tree.cut(LeafCut(Leaf(Region.RATCHET, 0, sequence)))
        assert len(tree) <= FRONTIER

    def test_a_cleared_conversation_gives_its_nodes_back(self) -> None:
        tree = KeyTree.create(ROOT)
        tree.cut(GroupCut(Region.KEPT, 5))
        before = len(tree)
        for sequence in range(0, 200, 2):
            tree.cut(LeafCut(Leaf(Region.KEPT, 4, sequence)))
        assert len(tree) > before + 100
        tree.cut(GroupCut(Region.KEPT, 4))
        assert len(tree) <= before

    def test_an_epoch_gives_all_of_its_regions_nodes_back(self) -> None:
        tree = KeyTree.create(ROOT)
        for sequence in range(0, 2000, 2):
            tree.cut(LeafCut(Leaf(Region.KEPT, 4, sequence)))
        assert tree.scattered(Region.KEPT) > 1000
        tree.cut(EpochCut(Region.KEPT, 0))
        assert tree.scattered(Region.KEPT) == 24
        assert tree.scattered(Region.RATCHET) == 1
        assert not tree.alive(Leaf(Region.KEPT, 5, 1))
        assert tree.alive(Leaf(Region.KEPT, 5, 1, epoch=1))

    def test_a_state_is_about_the_keys_themselves(self) -> None:
        tree = KeyTree.create(ROOT)
        for sequence in range(0, 1000, 2):
            tree.cut(LeafCut(Leaf(Region.RATCHET, 0, sequence)))
        assert len(tree.export()) <= len(tree) * (KEY_SIZE + 1 + LEAF_SIZE)


class TestMemory:
    def test_buffers_of_removed_nodes_are_overwritten(self) -> None:
        tree = KeyTree.create(ROOT)
        tree.cut(LeafCut(Leaf(Region.KEPT, 1, 1)))
        before = {id(node): node.key for node in tree._nodes}
        tree.cut(GroupCut(Region.KEPT, 1))
        kept = {id(node) for node in tree._nodes}
        removed = [key for node, key in before.items() if node not in kept]
        assert len(removed) == 48
        assert all(key == bytes(KEY_SIZE) for key in removed)
        assert not any(node.key == bytes(KEY_SIZE) for node in tree._nodes)

    def test_nodes_that_a_cut_only_passes_through_are_overwritten(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[_Node] = []
        split = _Node.split

        def watched(node: _Node) -> tuple[_Node, _Node]:
            pair = split(node)
            made.extend(pair)
            return pair

        monkeypatch.setattr(_Node, "split", watched)
        tree = KeyTree.create(ROOT)
        tree.cut(LeafCut(Leaf(Region.KEPT, 1, 1)))
        wiped = [node for node in made if node.key == bytes(KEY_SIZE)]
        assert len(made) == 2 * 120
        assert len(wiped) == 120
        assert len(tree) == 120

    def test_nothing_derived_outlives_a_cut(self) -> None:
        tree = KeyTree.create(ROOT)
        leaf = Leaf(Region.KEPT, 1, 1)
        tree.derive(leaf)
        tree.cut(LeafCut(leaf))
        assert not tree._trails
        assert tree.derive(Leaf(Region.KEPT, 1, 0)) == way_down(Leaf(Region.KEPT, 1, 0))[-1]

    @pytest.mark.parametrize("region", Region)
    def test_a_cut_in_one_region_drops_what_was_derived_in_all(self, region: Region) -> None:
        tree = KeyTree.create(ROOT)
        for other in Region:
            tree.derive(Leaf(other, 1, 1))
        assert set(tree._trails) == set(Region)
        tree.cut(GroupCut(region, 2))
        assert not tree._trails

    def test_regions_take_turns(self) -> None:
        tree = KeyTree.create(ROOT)
        tree.cut(UntilCut(Region.EXPIRING, 3))
        for sequence in range(20):
            for region in Region:
                leaf = Leaf(region, NOW + sequence // 5, sequence)
                assert tree.derive(leaf) == way_down(leaf)[-1]

    def test_a_wiped_tree_derives_nothing(self) -> None:
        tree = KeyTree.create(ROOT)
        leaf = Leaf(Region.KEPT, 1, 1)
        tree.derive(leaf)
        buffers = [node.key for node in tree._nodes]
        tree.wipe()
        assert buffers == [bytes(KEY_SIZE)]
        assert not tree._trails
        with pytest.raises(Forgotten):
            tree.derive(leaf)

    def test_the_root_is_copied(self) -> None:
        root = Secret(ROOT)
        tree = KeyTree.create(root)
        root.wipe()
        assert tree.derive(Leaf(Region.KEPT, 1, 1)) == way_down(Leaf(Region.KEPT, 1, 1))[-1]

    def test_nodes_do_not_print_their_keys(self) -> None:
        tree = KeyTree.create(b"sentinel-sentinel-sentinel-32-by")
        assert "sentinel" not in f"{tree!r}{tree._nodes!r}"


class TestPacking:
    @given(any_leaves, any_leaves)
    def test_leaves_keep_their_order(self, one: Leaf, other: Leaf) -> None:
        assert Leaf.unpack(one.pack()) == one
        paths = [(leaf.region, leaf.epoch, leaf.group, leaf.sequence) for leaf in (one, other)]
        assert (one.pack() < other.pack()) == (paths[0] < paths[1])

    @given(cuts)
    def test_cuts_come_back(self, cut: Cut) -> None:
        assert unpack_cut(pack_cut(cut)) == cut

    @given(st.binary(max_size=20))
    def test_any_bytes_are_a_cut_or_damage(self, data: bytes) -> None:
        try:
            cut = unpack_cut(data)
        except VaultDamaged:
            return
        assert pack_cut(cut) == data

    @given(st.binary(max_size=300))
    def test_any_bytes_are_a_tree_or_damage(self, data: bytes) -> None:
        try:
            tree = KeyTree.load(data)
        except VaultDamaged:
            return
        assert tree.export() == data

    def test_a_state_that_overlaps_itself_is_damage(self) -> None:
        left = bytes([1, 0]) + ROOT
        right = bytes([1, 0x80]) + ROOT
        whole = bytes([0]) + ROOT
        assert len(KeyTree.load(left + right)) == 2
        for overlapping in (right + left, left + left, whole + right, left + whole):
            with pytest.raises(VaultDamaged):
                KeyTree.load(overlapping)

    @pytest.mark.parametrize(
        "damaged",
        [
            bytes([121]) + bytes(16) + ROOT,
            bytes([255]) + bytes(32) + ROOT,
            bytes([1, 0x40]) + ROOT,
            bytes([1, 0]) + ROOT[:-1],
            bytes([0]) + ROOT + b"\0",
        ],
    )
    def test_a_node_that_cannot_be_is_damage(self, damaged: bytes) -> None:
        with pytest.raises(VaultDamaged):
            KeyTree.load(damaged)

    def test_everything_may_have_been_cut(self) -> None:
        assert len(KeyTree.load(b"")) == 0

    @pytest.mark.parametrize(
        "path",
        [
            *((-1, 0, 0), (0, -1, 0), (0, 0, -1)),
            *((MAXIMUM_GROUP + 1, 0, 0), (0, MAXIMUM_SEQUENCE + 1, 0), (0, 0, MAXIMUM_EPOCH + 1)),
        ],
    )
    def test_what_is_out_of_range_reaches_no_other_leaf(self, path: tuple[int, int, int]) -> None:
        leaf = Leaf(Region.KEPT, *path)
        tree = KeyTree.create(ROOT)
        for refused in (leaf.pack, lambda: tree.derive(leaf), lambda: tree.cut(LeafCut(leaf))):
            with pytest.raises(LocalProtocolError):
                refused()
        assert len(tree) == 1

    def test_a_root_of_another_size_is_refused(self) -> None:
        with pytest.raises(LocalProtocolError):
            KeyTree.create(b"short")
