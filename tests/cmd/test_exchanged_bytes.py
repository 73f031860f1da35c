"""The bytes that a compiled program exchanges, counted in its text."""

from lastax.cmd.bench._device_step import exchanged_bytes

PROGRAM = """
  %add = f32[7]{0} add(%a, %b)
  %all-reduce.1 = f32[3,5]{1,0} all-reduce(%add.1), channel_id=1, to_apply=%sum
  ROOT %all-reduce.2 = (f32[4]{0}, bf16[2]{0}, s32[]) all-reduce(%x, %y, %z), channel_id=2
  %start = f32[8]{0} all-gather-start(%c), dimensions={0}
  %done = f32[8]{0} all-gather-done(%start)
"""


def test_results_of_collective_operations_are_counted_once():
    assert exchanged_bytes(PROGRAM) == 4 * 15 + (4 * 4 + 2 * 2 + 4) + 4 * 8
