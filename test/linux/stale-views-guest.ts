/** Views of closed sources; run as root in the virtual machine, with the device that stale-views.test.ts lists. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { bindToVfio, HugetlbMemory, unbindFromVfio } from 'dmapool/linux';
import { VfioContainer } from '../../src/linux/vfio-container.ts';
import { VfioMemory, type IommuDomain, type VfioMemoryOptions } from '../../src/linux/vfio-memory.ts';
import { runStaleViews, seedOf } from './stale-views.ts';
import { FIRST as EDU, freeHugepages } from './vfio-guest-support.ts';
import { MIB } from '../support/sizes.ts';

const PIECES = [1, 4096, 20_000, 65_536];

/** One container for all runs: opening a device takes longer than everything else. */
function withDomain(use: (domain: IommuDomain) => void): void {
  const container = new VfioContainer(EDU);
  try {
    const { iovaRanges, pageSize } = container.iommu;
    use({ address: EDU, mapper: container, iovaRanges, pageSize });
  } finally {
    container.close();
  }
}

void describe('no order of close, read, write, alloc and free crashes the process, and stale views read zeros', () => {
  before(() => {
    bindToVfio([EDU]);
  });
  after(() => {
    unbindFromVfio([EDU]);
  });

  const kinds: readonly { readonly orders: number; readonly name: string; readonly options: VfioMemoryOptions }[] = [
    { orders: 4500, name: 'VFIO', options: { size: 131_072, hugepages: false } },
    { orders: 4500, name: 'VFIO, strict', options: { size: 131_072, hugepages: false, strict: true } },
    { orders: 200, name: 'VFIO, hugepages', options: { size: MIB, hugepages: true } },
    { orders: 200, name: 'VFIO, hugepages, strict', options: { size: MIB, hugepages: true, strict: true } },
  ];
  for (const { orders, name, options } of kinds) {
    void it(`${String(orders)} orders, ${name}`, (t) => {
      const reserved = freeHugepages();
      const seed = seedOf();
      t.diagnostic(`DMAPOOL_SEED=${String(seed)}`);
      withDomain((domain) => {
        const open = (): VfioMemory => new VfioMemory(domain, options);
        assert.ok(runStaleViews({ orders, seed, open, sizes: PIECES, dmaMask: 2 ** 39 - 1 }).length > orders);
      });
      assert.equal(freeHugepages(), reserved);
    });
  }

  void it('600 orders, hugetlb', (t) => {
    const reserved = freeHugepages();
    const seed = seedOf();
    t.diagnostic(`DMAPOOL_SEED=${String(seed)}`);
    const open = (): HugetlbMemory => new HugetlbMemory({ size: 2 * MIB });
    const sizes = [1, 4096, 20_000, MIB, 2 * MIB];
    assert.ok(runStaleViews({ orders: 600, seed, open, sizes, dmaMask: 2 ** 52 }).length > 600);
    assert.equal(freeHugepages(), reserved);
  });
});
