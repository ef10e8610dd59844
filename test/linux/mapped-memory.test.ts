import assert from 'node:assert/strict';
import { once } from 'node:events';
import { closeSync, readFileSync, readSync } from 'node:fs';
import { describe, it, type TestContext } from 'node:test';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { openSharedRegion } from 'dmapool/linux';
import { MappedMemory } from '../../src/linux/mapped-memory.ts';
import { createMemoryFile } from '../../src/linux/memfd.ts';
import type { RegionRequest } from './region-worker.ts';

const UNIT = 65_536;

function file(t: TestContext, size: number, name = 'dmapool-test'): number {
  const fd = createMemoryFile(name, size);
  t.after(() => {
    closeSync(fd);
  });
  return fd;
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

interface Answer {
  readonly ok: unknown;
  readonly code: unknown;
}

class Helper {
  readonly #worker = new Worker(new URL('./region-worker.js', import.meta.url));

  constructor(t: TestContext) {
    t.after(() => this.#worker.terminate());
  }

  async ask(request: RegionRequest): Promise<Partial<Answer>> {
    this.#worker.postMessage(request);
    return ((await once(this.#worker, 'message')) as [Partial<Answer>])[0];
  }
}

void describe('MappedMemory', () => {
  void it('keeps what is written, and stale views never crash the process', (t) => {
    const fd = file(t, 8 * UNIT);
    const step = fc.record({
      do: fc.constantFrom('open', 'write', 'write', 'read', 'close'),
      part: fc.nat(7),
      anonymous: fc.boolean(),
      value: fc.integer({ min: 1, max: 255 }),
    });
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 40, size: 'max' }), (steps) => {
        let memory = new MappedMemory(8 * UNIT);
        let live: { view: Uint8Array; part: number; value: number; shared: boolean }[] = [];
        const stale: Uint8Array[] = [];
        const inFile = new Uint8Array(8);
        readSync(fd, inFile, 0, 0, 0);
        const contents = Array.from({ length: 8 }, (_, part) => {
          readSync(fd, inFile, 0, 1, part * UNIT);
          return inFile[0]!;
        });
        for (const s of steps) {
          const there = live.find(({ part }) => part === s.part);
          if (s.do === 'open') {
            if (there !== undefined) {
              assert.throws(() => memory.open(s.part * UNIT, UNIT, 'anonymous'), /open already/);
              continue;
            }
            const source = s.anonymous ? 'anonymous' : { fd, offset: s.part * UNIT };
            const view = new Uint8Array(memory.open(s.part * UNIT, UNIT, source));
            const value = s.anonymous ? 0 : contents[s.part]!;
            live.push({ view, part: s.part, value, shared: !s.anonymous });
          } else if (s.do === 'write' && there !== undefined) {
            there.view.fill(s.value);
            there.value = s.value;
            if (there.shared) contents[s.part] = s.value;
          } else if (s.do === 'read') {
            for (const { view, value } of live) assert.ok(view[0] === value && view[UNIT - 1] === value);
          } else if (s.do === 'close') {
            memory.close();
            memory.close();
            for (const { view } of live) {
              assert.ok(isZero(view));
              view[17] = 1;
              stale.push(view);
            }
            live = [];
            memory = new MappedMemory(8 * UNIT);
          }
        }
        memory.close();
        for (const view of stale) assert.equal(view[17], 1, 'a stale write stays in its page');
        for (const [part, value] of contents.entries()) {
          readSync(fd, inFile, 0, 1, part * UNIT + 17);
          assert.equal(inFile[0], value, 'and does not reach the file');
        }
      }),
      { numRuns: 100 },
    );
  });

  void it('has the requested alignment', () => {
    for (const alignment of [UNIT, 2 ** 21, 2 ** 30]) {
      const memory = new MappedMemory(alignment, alignment);
      assert.equal(memory.address % alignment, 0);
      memory.close();
    }
  });

  void it('returns the address space of memory that was never viewed', () => {
    const before = mappings().length;
    for (let i = 0; i < 50; i++) {
      const memory = new MappedMemory(64 * UNIT);
      memory.close();
    }
    assert.ok(mappings().length < before + 10, `${String(mappings().length)} mappings, before ${String(before)}`);
  });

  void it('is unchanged after a failed mapping', () => {
    const memory = new MappedMemory(2 * UNIT);
    assert.throws(() => memory.open(0, UNIT, { fd: 9999, offset: 0 }), { syscall: 'mmap', errnoName: 'EBADF' });
    const view = new Uint8Array(memory.open(0, UNIT, 'anonymous'));
    view.fill(9);
    memory.close();
    assert.ok(isZero(view));
    assert.throws(() => memory.open(UNIT, UNIT, 'anonymous'), /closed/);
  });
});

void describe('memory shared with workers', () => {
  void it('is the same memory, for Atomics too', async (t) => {
    const memory = new MappedMemory(UNIT);
    const buffer = memory.open(0, UNIT, { fd: file(t, UNIT, 'dmapool-atomics'), offset: 0 });
    const region = memory.share(buffer, 'dmapool-atomics');
    const times = 20_000;
    const answers = await Promise.all(
      [new Helper(t), new Helper(t)].map((helper) => helper.ask({ do: 'count', region, word: 5, times })),
    );
    assert.deepEqual(answers, [{ ok: UNIT }, { ok: UNIT }]);
    assert.equal(new Int32Array(buffer)[5], 2 * times);
    memory.close();
  });

  void it('is refused where this process has no such memory', async (t) => {
    const helper = new Helper(t);
    const memory = new MappedMemory(2 * UNIT);
    const buffer = memory.open(0, UNIT, { fd: file(t, UNIT, 'dmapool-refused'), offset: 0 });
    const region = memory.share(buffer, 'dmapool-refused');
    const ask = async (changes: object): Promise<unknown> =>
      (await helper.ask({ do: 'count', region: { ...region, ...changes }, word: 0, times: 1 })).code;
    for (const changes of [
      { address: 4096 },
      { address: region.address + UNIT },
      { size: 2 * UNIT },
      { address: NaN },
      { size: -1 },
      { name: 'libc' },
      { name: '.*' },
      { kind: 'other' },
    ]) {
      assert.equal(await ask(changes), 'ERR_DMAPOOL_NOT_MAPPED', JSON.stringify(changes));
    }
    assert.equal(await ask({}), undefined);
    memory.close();
    assert.equal(await ask({}), 'ERR_DMAPOOL_NOT_MAPPED', 'after it was closed');
    assert.throws(() => memory.share(buffer, 'dmapool-refused'), { code: 'ERR_DMAPOOL_NOT_MAPPED' });
    assert.throws(() => openSharedRegion(null as never), { code: 'ERR_DMAPOOL_NOT_MAPPED' });
  });
});

function mappings(): string[] {
  return readFileSync('/proc/self/maps', 'utf8').split('\n');
}
