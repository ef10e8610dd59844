import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { DmaArgumentError, DmaMappingError, IommuFaultError } from 'dmapool';
import { SoftwareIommu } from '../../src/memory/iommu.ts';

const PAGE = 4096;
const FOUR_GIB = 2 ** 32;

/** Domains as maps from IOVA page to physical page. */
class Model {
  readonly domains: Map<number, number>[] = [new Map<number, number>(), new Map<number, number>()];

  canMap(who: number, page: number, frame: number, pages: number): boolean {
    for (let i = 0; i < pages; i++) {
      if (this.#of(who).has(page + i)) return false;
      if (this.domains.some((domain) => [...domain.values()].includes(frame + i))) return false;
    }
    return true;
  }

  map(who: number, page: number, frame: number, pages: number): void {
    for (let i = 0; i < pages; i++) this.#of(who).set(page + i, frame + i);
  }

  canUnmap(who: number, page: number, pages: number): boolean {
    for (let i = 0; i < pages; i++) if (!this.#of(who).has(page + i)) return false;
    return true;
  }

  unmap(who: number, page: number, pages: number): void {
    for (let i = 0; i < pages; i++) this.#of(who).delete(page + i);
  }

  /** The result of translating a range: an address, the faulting address, or several pieces. */
  translate(who: number, iova: number, length: number): number | { fault: number } | 'pieces' {
    const first = Math.floor(iova / PAGE);
    const frame = this.#of(who).get(first);
    let pieces = false;
    for (let page = first; page * PAGE < iova + length; page++) {
      const at = this.#of(who).get(page);
      if (at === undefined) return { fault: Math.max(iova, page * PAGE) };
      if (at !== frame! + page - first) pieces = true;
    }
    return pieces ? 'pieces' : frame! * PAGE + (iova % PAGE);
  }

  #of(who: number): Map<number, number> {
    return this.domains[who]!;
  }
}

// Few pages, near the ends of page-table leaves and far apart, so that requests collide.
const page = fc
  .tuple(fc.constantFrom(0, 508, 2 ** 20 - 4, 2 ** 31, 2 ** 41 - 16), fc.nat(8))
  .map(([from, plus]) => from + plus);
const range = { who: fc.nat(1), page, pages: fc.integer({ min: 1, max: 7 }) };
const frame = fc.tuple(fc.constantFrom(0, 510, 2 ** 31 - 20), fc.nat(10)).map(([from, plus]) => from + plus);
const action = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('map' as const), frame, ...range }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('unmap' as const), ...range }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('translate' as const),
      ...range,
      offset: fc.nat(PAGE - 1),
      length: fc.integer({ min: 1, max: 4 * PAGE }),
    }),
  },
);

void describe('IommuDomain against a Map', () => {
  void it('maps, unmaps, translates and faults alike', () => {
    fc.assert(
      fc.property(fc.array(action, { minLength: 1, maxLength: 100, size: 'max' }), (actions) => {
        const iommu = new SoftwareIommu(PAGE);
        const domains = [0, 1].map((i) => iommu.domain({ name: `dev${i}`, dmaMask: 0 }));
        const model = new Model();
        let faults = 0;
        for (const a of actions) {
          const domain = domains[a.who]!;
          const iova = a.page * PAGE;
          switch (a.do) {
            case 'map': {
              const map = (): void => {
                domain.map(iova, a.frame * PAGE, a.pages * PAGE);
              };
              if (model.canMap(a.who, a.page, a.frame, a.pages)) {
                map();
                model.map(a.who, a.page, a.frame, a.pages);
              } else {
                assert.throws(map, { name: 'DmaMappingError', code: 'ERR_DMAPOOL_ALREADY_MAPPED' });
              }
              break;
            }
            case 'unmap': {
              const unmap = (): void => {
                domain.unmap(iova, a.pages * PAGE);
              };
              if (model.canUnmap(a.who, a.page, a.pages)) {
                unmap();
                model.unmap(a.who, a.page, a.pages);
              } else {
                assert.throws(unmap, { name: 'DmaMappingError', code: 'ERR_DMAPOOL_NOT_MAPPED' });
              }
              break;
            }
            case 'translate': {
              const expected = model.translate(a.who, iova + a.offset, a.length);
              const translate = (): number => domain.translate(iova + a.offset, a.length);
              if (typeof expected === 'number') {
                assert.equal(translate(), expected);
              } else if (expected === 'pieces') {
                assert.throws(translate, DmaArgumentError);
              } else {
                faults++;
                assert.throws(translate, { name: 'IommuFaultError', dma: expected.fault, device: `dev${a.who}` });
              }
            }
          }
        }
        assert.equal(iommu.faults, faults);
        // At the end both sides agree on every page.
        model.domains.forEach((pages, who) => {
          for (const [p, f] of pages) assert.equal(domains[who]!.translate(p * PAGE, PAGE), f * PAGE);
        });
      }),
      { numRuns: 300 },
    );
  });
});

void describe('IommuDomain', () => {
  const wide = { name: 'wide', dmaMask: Number.MAX_SAFE_INTEGER };

  void it('exists once for each device, by identity', () => {
    const iommu = new SoftwareIommu();
    assert.equal(iommu.domain(wide), iommu.domain(wide));
    assert.notEqual(iommu.domain(wide), iommu.domain({ ...wide }));
  });

  void it('accepts any whole number for an address that may fault, and nothing else', () => {
    const domain = new SoftwareIommu().domain(wide);
    domain.map(2 ** 53 - PAGE, 0, PAGE);
    assert.equal(domain.translate(2 ** 53 - 1, 1), PAGE - 1);
    for (const dma of [0, 4095, 2 ** 53, 2 ** 63, 2 ** 64 - 2 ** 11, Number.MAX_VALUE]) {
      assert.throws(() => domain.translate(dma, 8), { name: 'IommuFaultError', dma });
      assert.throws(() => {
        domain.check(dma, Number.MAX_SAFE_INTEGER);
      }, IommuFaultError);
    }
    assert.throws(() => domain.translate(2 ** 53 - 4, 8), { name: 'IommuFaultError', dma: 2 ** 53 });
    for (const dma of [-1, 0.5, NaN, Infinity, '0', 0n]) {
      assert.throws(() => domain.translate(dma as number, 1), DmaArgumentError);
    }
    assert.throws(() => domain.translate(0, 0), DmaArgumentError);
    assert.throws(() => {
      domain.map(1, 0, PAGE);
    }, DmaArgumentError);
    assert.throws(() => {
      domain.map(0, 1, PAGE);
    }, DmaArgumentError);
    assert.throws(() => {
      domain.map(0, 0, 1);
    }, DmaArgumentError);
    assert.throws(() => {
      domain.map(2 ** 53 - PAGE, 0, 2 * PAGE);
    }, DmaArgumentError);
    assert.throws(() => {
      domain.map(0, 2 ** 43, PAGE);
    }, DmaArgumentError);
  });

  void it('reports the device, the operation and the address of a fault', () => {
    const domain = new SoftwareIommu().domain(wide);
    domain.map(0, 0, PAGE);
    assert.throws(
      () => {
        domain.check(PAGE - 2, 4, 'write');
      },
      {
        message: 'wide: IOMMU fault: write of 4 bytes at 0x1000, which is not mapped',
      },
    );
  });

  void it('gives addresses from 4 GiB up to devices that reach them, and low ones to the others', () => {
    const domain = new SoftwareIommu().domain(wide);
    assert.equal(domain.allocIova(PAGE, Number.MAX_SAFE_INTEGER), FOUR_GIB);
    assert.equal(domain.allocIova(1, 2 ** 40 - 1), FOUR_GIB + PAGE);
    assert.equal(domain.allocIova(3 * PAGE, 2 ** 40 - 1), FOUR_GIB + 4 * PAGE);
    assert.equal(domain.allocIova(PAGE, FOUR_GIB - 1), PAGE, 'never address 0');
    assert.equal(domain.allocIova(4 * PAGE, FOUR_GIB - 1), 4 * PAGE);
    // All addresses above 4 GiB in reach of 33 bits are used: the remaining ones are low.
    const other = new SoftwareIommu().domain(wide);
    assert.equal(other.allocIova(PAGE, FOUR_GIB + PAGE - 1), FOUR_GIB);
    assert.equal(other.allocIova(PAGE, FOUR_GIB + PAGE - 1), PAGE);
    assert.equal(other.allocIova(PAGE, PAGE), -1, 'a mask below the first page');
    other.freeIova(FOUR_GIB, PAGE);
    assert.throws(() => {
      other.freeIova(FOUR_GIB, PAGE);
    }, DmaMappingError);
    assert.equal(other.allocIova(PAGE, FOUR_GIB + PAGE - 1), FOUR_GIB);
  });

  void it('keeps the addresses of different devices apart', () => {
    const iommu = new SoftwareIommu();
    const [a, b] = [iommu.domain({ ...wide }), iommu.domain({ ...wide })];
    assert.equal(a.allocIova(PAGE, 2 ** 32), b.allocIova(PAGE, 2 ** 32));
    a.map(FOUR_GIB, 0, PAGE);
    b.map(FOUR_GIB, PAGE, PAGE);
    assert.equal(a.translate(FOUR_GIB, 1), 0);
    assert.equal(b.translate(FOUR_GIB, 1), PAGE);
  });

  void it('changes nothing when the engine has no memory for the table', () => {
    for (const failAt of [1, 2, 3, 4]) {
      const iommu = new SoftwareIommu();
      const domain = iommu.domain(wide);
      const original = globalThis.Int32Array;
      let made = 0;
      globalThis.Int32Array = function (length: number): Int32Array {
        if (++made === failAt) throw new RangeError('Array buffer allocation failed');
        return new original(length);
      } as unknown as Int32ArrayConstructor;
      try {
        // Four leaves: two of the domain, two of the physical pages' owners.
        assert.throws(() => {
          domain.map(511 * PAGE, 1023 * PAGE, 2 * PAGE);
        }, RangeError);
      } finally {
        globalThis.Int32Array = original;
      }
      for (const p of [511, 512]) assert.throws(() => domain.translate(p * PAGE, 1), IommuFaultError);
      iommu.domain({ ...wide }).map(0, 1023 * PAGE, 2 * PAGE);
    }
  });
});
