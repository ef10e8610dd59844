/**
 * Tests of memory of hugepages of two sizes; run where one hugepage of 1 GiB and 8 of 2 MiB are free: see
 * hugetlb.test.ts.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { HugetlbMemory } from 'dmapool/linux';
import { readPhysical } from './kcore.ts';

const HUGE = 2 ** 21;
const GIGANTIC = 2 ** 30;

void describe('hugetlb memory of two sizes of hugepages', () => {
  void it('takes large hugepages first, and small ones for the rest', () => {
    const memory = new HugetlbMemory({ size: GIGANTIC + 3 * HUGE + 1 });
    assert.deepEqual(memory.hugepages, [
      { size: GIGANTIC, count: 1 },
      { size: HUGE, count: 4 },
    ]);
    assert.deepEqual([memory.runs[0]!.dma % GIGANTIC, memory.runs[0]!.size], [0, GIGANTIC]);
    // At the end of the large hugepage, where a wrong size would show.
    const device = { name: 'd', dmaMask: Number.MAX_SAFE_INTEGER };
    const half = [1, 2].map(() => memory.allocCoherent({ device, size: GIGANTIC / 2, node: -1 })!);
    const small = memory.allocCoherent({ device, size: HUGE, node: -1 })!;
    for (const { buffer, byteOffset, size, dma } of [...half, small]) {
      new Uint8Array(buffer, byteOffset + size - 4, 4).set([1, 2, 3, 4]);
      assert.deepEqual([...readPhysical(dma + size - 4, 4)], [1, 2, 3, 4]);
    }
    memory.close();
  });

  void it('uses small hugepages alone when no large one is free', () => {
    const large = new HugetlbMemory({ size: GIGANTIC });
    assert.deepEqual(large.hugepages, [{ size: GIGANTIC, count: 1 }]);
    assert.throws(() => new HugetlbMemory({ size: GIGANTIC }), {
      code: 'ERR_DMAPOOL_NO_HUGEPAGES',
      message:
        /^1 GiB of hugepages needed, but only 0 of 1 of 1 GiB, 8 of 8 of 2 MiB are free; .* echo 512 > .*-2048kB/,
    });
    const small = new HugetlbMemory({ size: 8 * HUGE });
    assert.deepEqual(small.hugepages, [{ size: HUGE, count: 8 }]);
    small.close();
    large.close();
  });

  void it('uses one size alone when the option names it', () => {
    const memory = new HugetlbMemory({ size: 4096, hugepageSize: GIGANTIC });
    assert.equal(memory.limit, GIGANTIC);
    memory.close();
    assert.throws(() => new HugetlbMemory({ size: GIGANTIC, hugepageSize: HUGE }), {
      code: 'ERR_DMAPOOL_NO_HUGEPAGES',
    });
  });
});
