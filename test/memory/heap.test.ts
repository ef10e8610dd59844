import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { DmaArgumentError, DmaMappingError, DmaOutOfMemoryError, IommuFaultError } from 'dmapool';
import type { CoherentMemory, DmaTarget } from '../../src/memory/coherent.ts';
import { defaultMemory, HeapMemory, type HeapOptions } from '../../src/memory/heap.ts';
import { registerConformance } from './conformance-node.ts';
import { MIB } from '../support/sizes.ts';

const PAGE = 4096;
const FOUR_GIB = 2 ** 32;

function device(dmaMask: number = Number.MAX_SAFE_INTEGER): DmaTarget {
  return { name: 'dev', dmaMask };
}

function got(source: HeapMemory, target: DmaTarget, size: number): CoherentMemory {
  const memory = source.allocCoherent({ device: target, size, node: -1 });
  assert.ok(memory !== null, `no memory for ${size} bytes`);
  return memory;
}

function bytes(memory: CoherentMemory): Uint8Array {
  return new Uint8Array(memory.buffer, memory.byteOffset, memory.size);
}

/** Runs `action` in an engine without SharedArrayBuffer, or without its growth. */
function without<T>(what: 'SharedArrayBuffer' | 'grow', action: () => T): T {
  const owner: object = what === 'grow' ? SharedArrayBuffer.prototype : globalThis;
  const descriptor = Object.getOwnPropertyDescriptor(owner, what)!;
  Object.defineProperty(owner, what, { ...descriptor, value: undefined });
  try {
    return action();
  } finally {
    Object.defineProperty(owner, what, descriptor);
  }
}

registerConformance('HeapMemory', { create: () => new HeapMemory({ limit: 16 * MIB }) });
registerConformance('HeapMemory, odd limit and step, large pages', {
  create: () => new HeapMemory({ limit: 9 * MIB + 12345, step: 70000, pageSize: 16384 }),
});
registerConformance('HeapMemory without SharedArrayBuffer', {
  create: () => without('SharedArrayBuffer', () => new HeapMemory({ limit: 8 * MIB })),
});

type Step =
  | { do: 'alloc'; who: number; size: number }
  | { do: 'free'; pick: number }
  | { do: 'write'; pick: number; who: number; offset: number; length: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('alloc' as const),
      who: fc.nat(2),
      size: fc.oneof(fc.constant(PAGE), fc.integer({ min: 1, max: 10 * PAGE }), fc.constant(147456)),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('free' as const), pick: fc.nat(1000) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('write' as const),
      pick: fc.nat(1000),
      who: fc.nat(2),
      offset: fc.nat(6 * PAGE),
      length: fc.integer({ min: 1, max: 3 * PAGE }),
    }),
  },
);

void describe('HeapMemory in random histories', () => {
  void it('keeps every byte that a device wrote', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 80, size: 'max' }), (steps) => {
        const source = new HeapMemory({ limit: 100 * PAGE, step: 7 * PAGE });
        const devices = [device(), device(FOUR_GIB - 1), device(2 ** 24 - 1)];
        const live: { memory: CoherentMemory; who: number; content: Uint8Array }[] = [];
        let fill = 0;
        for (const s of steps) {
          if (s.do === 'alloc') {
            const target = devices[s.who]!;
            const memory = source.allocCoherent({ device: target, size: s.size, node: -1 });
            if (memory === null) continue;
            assert.ok(memory.dma + s.size - 1 <= target.dmaMask);
            assert.equal(memory.dma >= FOUR_GIB, s.who === 0);
            live.push({ memory, who: s.who, content: new Uint8Array(s.size) });
          } else if (s.do === 'free') {
            const [gone] = live.splice(s.pick % Math.max(1, live.length), 1);
            if (gone === undefined) continue;
            bytes(gone.memory).fill(0xee);
            source.freeCoherent(gone.memory);
            assert.throws(() => {
              source.freeCoherent(gone.memory);
            }, DmaMappingError);
            const target = devices[gone.who]!;
            assert.throws(() => source.translate(target, gone.memory.dma, 1), { dma: gone.memory.dma });
          } else {
            const chosen = live[s.pick % Math.max(1, live.length)];
            if (chosen === undefined || s.offset >= chosen.content.length) continue;
            const length = Math.min(s.length, chosen.content.length - s.offset);
            const data = new Uint8Array(length).fill(++fill);
            source.write(devices[chosen.who]!, chosen.memory.dma + s.offset, data);
            chosen.content.set(data, s.offset);
          }
        }
        for (const { memory, who, content } of live) {
          assert.deepEqual(bytes(memory), content);
          const back = new Uint8Array(content.length);
          source.read(devices[who]!, memory.dma, back);
          assert.deepEqual(back, content);
        }
        const pages = live.reduce((sum, { memory }) => sum + Math.ceil(memory.size / PAGE), 0);
        assert.equal(source.bytesInUse, pages * PAGE);
        for (const { memory } of live) source.freeCoherent(memory);
        assert.equal(source.bytesInUse, 0);
        assert.ok(source.allocCoherent({ device: devices[0]!, size: 64 * PAGE, node: -1 }) !== null);
      }),
      { numRuns: 150 },
    );
  });
});

void describe('HeapMemory as devices see it', () => {
  void it('translates an address to a view of the same bytes', () => {
    const source = new HeapMemory({ limit: MIB });
    const target = device();
    const memory = got(source, target, 2 * PAGE);
    bytes(memory)[PAGE + 5] = 42;
    const view = source.translate(target, memory.dma + PAGE + 4, 8);
    assert.deepEqual([...view], [0, 42, 0, 0, 0, 0, 0, 0]);
    view[0] = 41;
    assert.equal(bytes(memory)[PAGE + 4], 41);
  });

  void it('faults before any byte is written, and counts the fault', () => {
    const source = new HeapMemory({ limit: MIB });
    const target = device();
    const memory = got(source, target, PAGE);
    const end = memory.dma + PAGE;
    assert.throws(
      () => {
        source.write(target, end - 4, Uint8Array.of(1, 2, 3, 4, 5));
      },
      {
        name: 'IommuFaultError',
        dma: end,
        message: /dev: IOMMU fault: write of 5 bytes/,
      },
    );
    assert.ok(bytes(memory).every((byte) => byte === 0));
    const into = new Uint8Array(8).fill(9);
    assert.throws(
      () => {
        source.read(target, end - 4, into);
      },
      { dma: end },
    );
    assert.ok(into.every((byte) => byte === 9));
    assert.throws(
      () => {
        source.read(device(), memory.dma, into);
      },
      IommuFaultError,
      'another device',
    );
    assert.throws(() => source.translate(target, memory.byteOffset, 4), IommuFaultError, 'an offset is no address');
    assert.equal(source.faults, 4);
    source.write(target, end - 4, Uint8Array.of(1, 2, 3, 4));
    source.read(target, 0, new Uint8Array(0));
    assert.equal(source.faults, 4);
  });

  void it('reads and writes across allocations that are adjacent only for the device', () => {
    const source = new HeapMemory({ limit: MIB });
    const target = device();
    const first = got(source, target, PAGE);
    got(source, device(), PAGE);
    const second = got(source, target, PAGE);
    assert.equal(second.dma, first.dma + PAGE);
    assert.notEqual(second.byteOffset, first.byteOffset + PAGE);
    source.write(target, second.dma - 2, Uint8Array.of(1, 2, 3, 4));
    assert.deepEqual([...bytes(first).subarray(-2), ...bytes(second).subarray(0, 2)], [1, 2, 3, 4]);
    const into = new Uint8Array(4);
    source.read(target, second.dma - 2, into);
    assert.deepEqual([...into], [1, 2, 3, 4]);
    assert.throws(() => source.translate(target, second.dma - 2, 4), DmaArgumentError);
  });

  void it('keeps its record of freed memory', () => {
    const source = new HeapMemory({ limit: MIB });
    const memory = got(source, device(), 5000);
    const { dma, size, byteOffset, buffer } = memory;
    source.freeCoherent(memory);
    assert.deepEqual([memory.dma, memory.size, memory.byteOffset], [dma, size, byteOffset]);
    assert.equal(memory.buffer, buffer);
  });
});

void describe('HeapMemory and the engine', () => {
  void it('grows by the step, up to the limit, and views stay valid', () => {
    const source = new HeapMemory({ limit: 10 * PAGE + 100, step: 3 * PAGE + 1 });
    assert.equal(source.limit, 10 * PAGE);
    assert.equal(source.bytesCommitted, 0);
    const target = device();
    const view = bytes(got(source, target, PAGE));
    assert.equal(source.bytesCommitted, 4 * PAGE);
    for (let i = 1; i < 10; i++) got(source, target, PAGE);
    assert.equal(source.bytesCommitted, 10 * PAGE);
    assert.equal(view.length, PAGE);
    assert.equal(source.shareable, true);
  });

  void it('works when other code grows the buffer', () => {
    const source = new HeapMemory({ limit: 8 * PAGE, step: PAGE });
    const target = device();
    (got(source, target, PAGE).buffer as SharedArrayBuffer).grow(6 * PAGE - 1);
    for (let i = 1; i < 8; i++) bytes(got(source, target, PAGE)).fill(1);
    assert.equal(source.bytesCommitted, 8 * PAGE);
  });

  void it('treats a failed growth as exhaustion, and recovers', () => {
    const source = new HeapMemory({ limit: 8 * PAGE, step: PAGE });
    const target = device();
    const first = got(source, target, PAGE);
    const buffer = first.buffer as SharedArrayBuffer;
    Object.defineProperty(buffer, 'grow', {
      configurable: true,
      value: () => {
        throw new RangeError('SharedArrayBuffer.prototype.grow failed');
      },
    });
    assert.equal(source.allocCoherent({ device: target, size: PAGE, node: -1 }), null);
    assert.equal(source.bytesInUse, PAGE);
    source.freeCoherent(first);
    // The memory that exists already can still be allocated.
    source.freeCoherent(got(source, target, PAGE));
    Reflect.deleteProperty(buffer, 'grow');
    const memory = got(source, target, 8 * PAGE);
    assert.equal(memory.byteOffset, 0);
    assert.equal(memory.dma, FOUR_GIB, 'no address was lost');
  });

  void it('frees everything when the page table cannot be allocated', () => {
    const source = new HeapMemory({ limit: 8 * PAGE });
    const target = device();
    const original = globalThis.Int32Array;
    globalThis.Int32Array = function (): never {
      throw new RangeError('Array buffer allocation failed');
    } as unknown as Int32ArrayConstructor;
    try {
      assert.equal(source.allocCoherent({ device: target, size: PAGE, node: -1 }), null);
    } finally {
      globalThis.Int32Array = original;
    }
    assert.equal(source.bytesInUse, 0);
    assert.equal(got(source, target, PAGE).dma, FOUR_GIB);
  });

  void it('frees the pages when the device has no address left', () => {
    const source = new HeapMemory({ limit: MIB });
    const target = device(4 * PAGE - 1);
    const live = [got(source, target, PAGE), got(source, target, PAGE), got(source, target, PAGE)];
    assert.deepEqual(
      live.map((memory) => memory.dma),
      [PAGE, 2 * PAGE, 3 * PAGE],
    );
    assert.equal(source.allocCoherent({ device: target, size: PAGE, node: -1 }), null);
    assert.equal(source.bytesInUse, 3 * PAGE);
  });

  for (const what of ['SharedArrayBuffer', 'grow'] as const) {
    void it(`is not shareable without ${what}`, () => {
      const source = without(what, () => new HeapMemory({ limit: MIB }));
      assert.equal(source.shareable, false);
      assert.equal(source.bytesCommitted, MIB);
      assert.ok(got(source, device(), PAGE).buffer instanceof ArrayBuffer);
    });
  }

  void it('reports that the address space does not suffice', () => {
    assert.throws(() => new HeapMemory({ limit: 2 ** 29 * 2 ** 30, pageSize: 2 ** 30 }), DmaOutOfMemoryError);
  });

  void it('refuses invalid options and arguments', () => {
    const wrong: HeapOptions[] = [
      { limit: 0 },
      { limit: PAGE - 1 },
      { limit: NaN },
      { limit: 2 ** 53 },
      { step: 0 },
      { step: 0.5 },
      { pageSize: 2048 },
      { pageSize: 5000 },
      { pageSize: 2 ** 31 },
      { limit: '1' as unknown as number },
      { limit: null as unknown as number },
    ];
    for (const options of wrong) assert.throws(() => new HeapMemory(options), DmaArgumentError);
    assert.throws(() => new HeapMemory(null as unknown as HeapOptions), DmaArgumentError);

    const source = new HeapMemory({ limit: MIB });
    const alloc = (target: unknown): unknown =>
      source.allocCoherent({ device: target as DmaTarget, size: PAGE, node: -1 });
    for (const target of [null, undefined, 'dev', { name: 'x' }, { name: 1, dmaMask: 1 }, { name: 'x', dmaMask: -1 }]) {
      assert.throws(() => alloc(target), DmaArgumentError);
    }
    assert.throws(() => source.allocCoherent(null as never), DmaArgumentError);
    for (const memory of [null, undefined, 0, {}, source]) {
      assert.throws(() => {
        source.freeCoherent(memory as CoherentMemory);
      }, DmaMappingError);
    }
    assert.throws(() => {
      source.read(device(), 0, [1] as unknown as Uint8Array);
    }, DmaArgumentError);
    assert.throws(() => {
      source.write(device(), 0, 'x' as unknown as Uint8Array);
    }, DmaArgumentError);
    assert.throws(() => source.onceAvailable(1 as unknown as () => void), DmaArgumentError);
    assert.equal(source.bytesInUse, 0);
  });

  void it('does not call a listener that another one of the same round has removed', () => {
    const source = new HeapMemory({ limit: MIB });
    let called = false;
    let cancel = (): void => undefined;
    source.onceAvailable(() => {
      cancel();
    });
    cancel = source.onceAvailable(() => {
      called = true;
    });
    source.freeCoherent(got(source, device(), PAGE));
    assert.equal(called, false);
  });

  void it('has one default instance per process', () => {
    assert.equal(defaultMemory(), defaultMemory());
    assert.equal(defaultMemory().limit, 256 * MIB);
  });

  void it('does not keep an unused device alive, even while its memory is allocated', async () => {
    setFlagsFromString('--expose-gc');
    const gc = runInNewContext('gc') as () => void;
    const source = new HeapMemory({ limit: MIB });
    const kept: CoherentMemory[] = [];
    const reference = (() => {
      const target = device();
      kept.push(got(source, target, PAGE));
      return new WeakRef(target);
    })();
    for (let i = 0; i < 20 && reference.deref() !== undefined; i++) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      gc();
    }
    assert.equal(reference.deref(), undefined);
    source.freeCoherent(kept[0]!);
    assert.equal(source.bytesInUse, 0);
  });

  void it('uses at most 90 bytes of its own for an allocation of one page', async (t) => {
    setFlagsFromString('--expose-gc');
    const gc = runInNewContext('gc') as () => void;
    const count = 32768;
    // The buffer exists from the first allocation on, so the test measures the rest.
    const source = new HeapMemory({ limit: count * PAGE, step: count * PAGE });
    const target = device();
    // The first allocations also pay for code and feedback, and teach V8 the size of the objects.
    for (let i = 0; i < 64; i++) source.freeCoherent(got(source, target, PAGE));
    const live = new Array<CoherentMemory | null>(count).fill(null);
    const measure = async (): Promise<number> => {
      for (let i = 0; i < 3; i++) {
        gc();
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      const { heapUsed, arrayBuffers } = process.memoryUsage();
      return heapUsed + arrayBuffers;
    };
    const before = await measure();
    for (let i = 0; i < count; i++) live[i] = got(source, target, PAGE);
    const cost = ((await measure()) - before) / count;
    assert.ok(live.every((memory) => memory !== null));
    t.diagnostic(`${cost.toFixed(1)} bytes`);
    assert.ok(cost > 64 && cost <= 90, `${cost.toFixed(1)} bytes`);
  });
});
