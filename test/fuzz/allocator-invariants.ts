/** What holds in every history of the allocator: of blocks and errors in each call, and of pools between the operations. */
import assert from 'node:assert/strict';
import { type CoherentMemory, type Device, DmaError, type DmaPoolOptions } from 'dmapool';
import { countsOf, indicesOf, isAllocated } from '../support/pools.ts';
import { freeOne } from './allocator-api.ts';
import type { Held, HistoryState, Subject } from './allocator-state.ts';
import { SourceBroke } from './fuzz-source.ts';

function isDebug({ debug }: DmaPoolOptions): boolean {
  return debug !== undefined && debug !== false;
}

// ---- blocks

/** Checks a block that was just allocated, and holds it. @param disturbed Nested calls may have changed its bytes. */
export function hold(history: HistoryState, subject: Subject, index: number, zero: boolean, disturbed: boolean): void {
  const { pool, held, options, device } = subject;
  // A nested call may have destroyed the pool and reclaimed the device's memory.
  if (subject.state === 'gone') return;
  const block = `block ${String(index)}`;
  const dma = pool.dmaOf(index);
  const bytes = pool.bytesOf(index);
  if (held.has(dma)) history.violated(`${block} was allocated twice`);
  if (history.subjects.some((other) => other !== subject && other.device === device && other.held.has(dma))) {
    history.violated(`address ${dma.toString(16)} was allocated by two pools`);
  }
  if (!isAllocated(pool, index) && subject.state === 'open') {
    history.violated(`${block} was allocated, but isAllocated() is false`);
  }
  const { size, align = 1, boundary = 0 } = options;
  const last = dma + Math.max(size, 16) - 1;
  if (dma % Math.max(align, 1) !== 0) history.violated(`${block} is not aligned`);
  if (boundary > 0 && Math.floor(dma / boundary) !== Math.floor(last / boundary)) {
    history.violated(`${block} crosses a boundary`);
  }
  if (last > device.dmaMask) history.violated(`${block} is above the mask`);
  if (bytes.length !== pool.geometry.blockSize) history.violated('a block has the wrong size');
  const isZeroed = zero || options.initOnAlloc === true;
  const debug = isDebug(options);
  if (!disturbed) {
    const expected = isZeroed ? 0 : debug ? 0xa9 : options.initOnFree === true ? 0 : -1;
    const wrong = expected < 0 ? -1 : bytes.findIndex((byte) => byte !== expected);
    // With initOnFree alone, a device's write to a free block is still there.
    if (wrong >= 0 && !(expected === 0 && !isZeroed && subject.corrupted.has(dma))) {
      history.violated(`byte ${String(wrong)} of ${block} is ${String(bytes[wrong])}, not ${String(expected)}`);
    }
  }
  const quarantines = debug && (typeof options.debug !== 'object' || options.debug.quarantine !== false);
  if (subject.corrupted.delete(dma) && quarantines && !subject.shared) {
    history.violated(`${block} was written to while free, and was allocated`);
  }
  history.stamp = (history.stamp % 250) + 1;
  bytes.fill(history.stamp);
  held.set(dma, { index, dma, bytes, stamp: history.stamp });
}

/** Checks a held block that is about to be freed. */
export function letGo(history: HistoryState, subject: Subject, { index, dma, bytes, stamp }: Held): void {
  const wrong = bytes.findIndex((byte) => byte !== stamp);
  if (wrong >= 0) history.violated(`byte ${String(wrong)} of block ${String(index)} was overwritten while held`);
  subject.held.delete(dma);
}

export function freeHeld(history: HistoryState, subject: Subject, held: Held): void {
  letGo(history, subject, held);
  freeing(history, 'free', subject, () => {
    freeOne(subject.pool, history.random, held.index);
  });
}

export function checkFreed(history: HistoryState, { options, pool }: Subject, { bytes, index }: Held): void {
  const expected = isDebug(options) ? 0xa7 : options.initOnFree === true ? 0 : -1;
  if (expected >= 0 && bytes.some((byte) => byte !== expected)) {
    history.violated(`block ${String(index)} was freed, and its bytes are not ${String(expected)}`);
  }
  if (isAllocated(pool, index)) history.violated(`block ${String(index)} was freed, but isAllocated() is true`);
}

// ---- errors

/** Checks the error of a call that may fail. @param failed Failed allocations of the source before the call. */
export function checkError(
  history: HistoryState,
  what: string,
  { state }: Subject,
  error: unknown,
  failed: number,
): void {
  if (error instanceof assert.AssertionError) throw error;
  if (error instanceof SourceBroke) return;
  if (!(error instanceof DmaError)) history.violated(`${what} threw ${String(error)}, not a DmaError`);
  const allowed = ['ERR_DMAPOOL_LIMIT', 'ERR_DMAPOOL_NO_FREE_BLOCK'];
  if (state !== 'open' || history.nested > 0) allowed.push('ERR_DMAPOOL_DESTROYED');
  if (history.source.failed > failed || history.nested > 0) {
    allowed.push('ERR_DMAPOOL_NO_MEMORY', 'ERR_DMAPOOL_SOURCE', 'ERR_DMAPOOL_MASK');
  }
  if (!allowed.includes(error.code)) history.violated(`${what} was refused with ${error.code}: ${error.message}`);
}

/** Runs a free of held blocks. Only an error of the source may fail it, when the last free releases the pages. */
export function freeing(history: HistoryState, what: string, subject: Subject, call: () => void): void {
  try {
    call();
  } catch (error) {
    if (error instanceof assert.AssertionError) throw error;
    if (!(error instanceof SourceBroke) || (subject.state === 'open' && history.nested === 0)) {
      history.violated(`${what} of a held block threw ${String(error)}`);
    }
  }
}

/** Runs a call that must throw a DmaError and change nothing. */
export function refuses(history: HistoryState, what: string, call: () => void): void {
  try {
    call();
  } catch (error) {
    if (error instanceof DmaError) return;
    history.violated(`${what} threw ${String(error)}, not a DmaError`);
  }
  history.violated(`${what} was accepted`);
}

// ---- memory and pools

/** Returns why the source's memory must not be freed, or null. */
export function whyNotFree({ source, subjects, reclaiming }: HistoryState, memory: CoherentMemory): string | null {
  const end = memory.dma + memory.size;
  for (const subject of subjects) {
    if (source.live.get(memory) !== subject.device) continue;
    for (const dma of subject.corrupted) if (dma >= memory.dma && dma < end) subject.corrupted.delete(dma);
    for (const { dma, index } of subject.held.values()) {
      if (dma < memory.dma || dma >= end) continue;
      // A pool destroyed during a running reclaim, which then frees its pages too.
      if (!subject.shared || subject.state === 'open' || !reclaiming.has(subject.device)) {
        return `a page was freed while block ${String(index)} of ${subject.name} in it was held`;
      }
      subject.held.delete(dma);
    }
  }
  return null;
}

/** Checks all pools and devices between two operations. */
export function check(history: HistoryState): void {
  const [violation] = [...history.violations, ...history.source.violations];
  if (violation !== undefined) throw new assert.AssertionError({ message: violation });
  const disturbed = history.nested > 0;
  history.nested = 0;
  for (const subject of history.subjects) checkSubject(subject, disturbed);
  for (const device of history.devices) checkText(history, device);
}

function checkSubject(subject: Subject, disturbed: boolean): void {
  const { pool, held, model, options, state } = subject;
  if (state !== 'open' && held.size === 0) {
    subject.state = 'gone';
    if (!subject.shared)
      assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 }, 'counts of a pool without memory');
    return;
  }
  const { active, blocks, pages, highWater, allocations, frees, corrupted, quarantined, waiting } = pool.statistics();
  assert.equal(active, held.size, 'active = held blocks');
  assert.equal(blocks, pages * pool.geometry.blocksPerPage, 'blocks = pages * blocksPerPage');
  assert.ok(pages >= 0 && active + quarantined <= blocks, `${String(active)} active of ${String(blocks)} blocks`);
  assert.ok(active <= (options.maxBlocks ?? Infinity), 'active <= maxBlocks');
  assert.equal(allocations - frees, active, 'allocations - frees = active');
  assert.ok(highWater >= active, 'highWater >= active');
  if (!subject.shared) {
    assert.equal(waiting, subject.waiting.size, 'waiting');
    assert.ok(quarantined <= corrupted, 'quarantined <= corrupted');
    if (disturbed || corrupted > 0) assert.equal(indicesOf(pool).length, held.size, 'number of allocated indices');
  }
  if (model === null || state !== 'open') return;
  assert.equal(pages, model.pages, 'pages');
  assert.equal(highWater, model.highWater, 'high-water mark');
  assert.equal(allocations, model.allocations, 'allocations');
}

/** Checks the device's `pools` attribute, in Linux's format. */
function checkText({ subjects }: HistoryState, device: Device): void {
  const listed = subjects.filter((subject) => subject.device === device && subject.state === 'open').reverse();
  const text = device.readAttribute('pools');
  if (listed.length === 0) {
    assert.equal(text, undefined, 'attribute pools of a device without a pool');
    return;
  }
  const lines = listed.map(({ name, pool }) => {
    const { active, blocks, pages } = pool.statistics();
    const cut = utf8Prefix(name, 31);
    const padded = cut + ' '.repeat(Math.max(0, 16 - Buffer.byteLength(cut)));
    const figures = [active, blocks, pool.geometry.blockSize].map((figure) => String(figure).padStart(4));
    return `${padded} ${figures.join(' ')} ${String(pages).padStart(2)}\n`;
  });
  assert.equal(text, utf8Prefix(`poolinfo - 0.1\n${lines.join('')}`, 4095));
}

/** Returns the longest prefix of whole characters in at most `length` bytes of UTF-8. */
function utf8Prefix(text: string, length: number): string {
  // A decoder of a stream holds back an incomplete character.
  return new TextDecoder().decode(Buffer.from(text).subarray(0, length), { stream: true });
}

/** Checks that all memory was freed and that no wait is pending. */
export function checkEnd({ source, subjects }: HistoryState): void {
  assert.equal(source.live.size, 0, 'allocations of the source that were not freed');
  assert.equal(source.bytesInUse, 0, 'bytes in use after all memory was freed');
  for (const { waiting } of subjects) assert.equal(waiting.size, 0, 'waits that are pending at the end');
}
