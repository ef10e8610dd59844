/** The operations of a history of the allocator on blocks: allocations, frees, lookups and waits. */
import assert from 'node:assert/strict';
import { DmaError } from 'dmapool';
import { indicesOf } from '../support/pools.ts';
import { type AllocWish, allocMany, allocOne, freeMany } from './allocator-api.ts';
import { checkFreed, checkError, freeHeld, freeing, hold, letGo, refuses } from './allocator-invariants.ts';
import { type HistoryState, isOfSource, type Subject, type Waiting } from './allocator-state.ts';

/** An abort reason. The wait must reject with it unchanged. */
class GivenUp extends Error {}

export function alloc(history: HistoryState, subject: Subject): void {
  const { random } = history;
  const wish = { count: 1, zero: random.chance(0.3), grow: !random.chance(0.2) };
  take(history, subject, 'alloc', wish, () => {
    const index = allocOne(subject.pool, random, wish);
    return index < 0 ? null : [index];
  });
}

export function allocBulk(history: HistoryState, subject: Subject): void {
  const { random } = history;
  const count = random.below(random.pick([4, 20, 60]));
  const grow = !random.chance(0.2);
  take(history, subject, `alloc of ${String(count)}`, { count, zero: false, grow }, () => {
    return allocMany(subject.pool, random, count, grow);
  });
}

export function reserve(history: HistoryState, subject: Subject): void {
  const count = history.random.below(30);
  take(history, subject, `reserve ${String(count)}`, { count, zero: false, grow: true }, () => {
    subject.pool.reserve(count);
    return [];
  });
}

/** Makes a call that needs `count` free blocks and returns those that it allocated, or null if it failed. */
function take(
  history: HistoryState,
  subject: Subject,
  what: string,
  { count, zero, grow }: AllocWish & { readonly count: number },
  call: () => readonly number[] | null,
): void {
  const { pool, model, name } = subject;
  const plan = model?.planTake(count, grow);
  const isOpen = subject.state === 'open';
  const { nested } = history;
  const { failed } = history.source;
  const { pages } = pool.statistics();
  let indices: readonly number[] | null = null;
  try {
    indices = call();
    history.note(`${name}: ${what}: ${indices?.join(' ') ?? 'none'}`);
  } catch (error) {
    history.note(`${name}: ${what} threw ${String(error)}`);
    checkError(history, what, subject, error, failed);
  }
  if (plan !== undefined && isOpen) {
    const opened = pool.statistics().pages - pages;
    const succeeds = plan.ok && (indices !== null || history.source.failed === failed);
    assert.equal(indices !== null, succeeds, `${what} succeeds`);
    assert.equal(opened, succeeds ? plan.pages : 0, `pages that ${what} opened`);
    model!.opened(opened);
    const expected = indices?.map(() => model!.take());
    assert.deepEqual(indices ?? undefined, expected, 'the blocks are the next in LIFO and ascending order');
  }
  if (indices === null) return;
  if (!isOpen && indices.length > 0 && !history.isEnding(subject))
    history.violated('a destroyed pool allocated blocks');
  for (const index of indices) hold(history, subject, index, zero, history.nested > nested);
}

export function free(history: HistoryState, subject: Subject): void {
  const held = history.anyHeld(subject);
  if (held === undefined) return;
  history.note(`${subject.name}: free ${String(held.index)}`);
  const { nested } = history;
  const open = subject.state === 'open';
  const waiting = subject.waiting.size;
  freeHeld(history, subject, held);
  if (!open) return;
  subject.model?.give(held.index);
  if (history.nested === nested && waiting === 0) checkFreed(history, subject, held);
}

export function freeThenAlloc(history: HistoryState, subject: Subject): void {
  const held = history.anyHeld(subject);
  if (held === undefined || subject.state !== 'open' || subject.waiting.size > 0) return;
  // A full magazine flushes half of its blocks to the depot, including the block just freed.
  if (subject.shared) return;
  const { nested } = history;
  freeHeld(history, subject, held);
  const index = allocOne(subject.pool, history.random, { zero: false, grow: false });
  history.note(`${subject.name}: free ${String(held.index)}, alloc ${String(index)}`);
  if (history.nested === nested && index !== held.index) {
    history.violated(`block ${String(held.index)} was freed, but ${String(index)} was allocated next`);
  }
  if (index >= 0) hold(history, subject, index, false, history.nested > nested);
}

export function freeBulk(history: HistoryState, subject: Subject): void {
  const { random } = history;
  const { pool, name } = subject;
  const chosen = [...subject.held.values()].slice(0, random.below(20));
  const indices = chosen.map(({ index }) => index);
  if (chosen.length > 0 && random.chance(0.25)) {
    // A duplicate, or an index out of range: the call must free nothing.
    const bad = [...indices, random.chance(0.5) ? indices[0]! : 2 ** 29];
    history.note(`${name}: free ${bad.join(' ')}, which must throw`);
    const before = JSON.stringify(pool.statistics());
    refuses(history, 'a bulk free with a bad block', () => {
      pool.freeIndexBulk(Int32Array.from(bad));
    });
    if (JSON.stringify(pool.statistics()) !== before) history.violated('a failed bulk free changed the pool');
    return;
  }
  for (const held of chosen) letGo(history, subject, held);
  history.note(`${name}: free ${indices.join(' ')}`);
  const open = subject.state === 'open';
  freeing(history, 'bulk free', subject, () => {
    freeMany(pool, random, indices);
  });
  if (open) for (const index of indices) subject.model?.give(index);
}

export function badFree(history: HistoryState, subject: Subject): void {
  const { random } = history;
  const { pool, model } = subject;
  const bad: unknown[] = [-1, 2 ** 31, 1.5, NaN, '0', 0n, null, undefined, {}, 1e9, -0.5, Symbol('index')];
  const isFree = model?.anyFree(random.below(1000));
  if (isFree !== undefined) bad.push(isFree, isFree, isFree);
  for (const other of history.subjects) {
    const held = history.anyHeld(other);
    if (other !== subject && held !== undefined && other.state === 'open') bad.push(other.pool.blockAt(held.dma));
  }
  const value = random.pick(bad);
  history.note(`${subject.name}: free ${String(value)}, which must throw`);
  for (const method of ['freeIndex', 'free', 'freeAt'] as const) {
    refuses(history, `${method} of an invalid block`, () => {
      pool[method](value as never);
    });
  }
  const held = history.anyHeld(subject);
  if (held === undefined || subject.state === 'gone') return;
  refuses(history, 'freeAt inside a block', () => {
    pool.freeAt(held.dma + 1 + random.below(15));
  });
}

export function lookUp(history: HistoryState, subject: Subject): void {
  const { pool } = subject;
  const held = history.anyHeld(subject);
  if (held === undefined || subject.state === 'gone') return;
  const inside = held.dma + history.random.below(held.bytes.length);
  if (pool.indexAt(inside) !== held.index || pool.blockAt(inside)?.index !== held.index) {
    history.violated(`address ${inside.toString(16)} is in block ${String(held.index)}, but a lookup does not find it`);
  }
  if (pool.dmaOf(held.index) !== held.dma) history.violated('the address of a held block changed');
  const listed = indicesOf(pool);
  const out = Array.from(subject.held.values(), ({ index }) => index).sort((a, b) => a - b);
  if (history.nested === 0 && subject.waiting.size === 0) assert.deepEqual(listed, out, 'allocated blocks');
}

export function wait(history: HistoryState, subject: Subject): void {
  const { random } = history;
  const { name, waiting } = subject;
  if (subject.shared || waiting.size > 8) return;
  const controller = new AbortController();
  const mine: Waiting = { number: NaN, controller };
  const zero = random.chance(0.3);
  const timeout = random.chance(0.05) ? { timeout: random.below(3) } : {};
  history.note(`${name}: wait`);
  waiting.add(mine);
  const { nested } = history;
  const promise = subject.pool.allocWait({ signal: controller.signal, zero, ...timeout });
  if (history.depth === 1 && history.nested === nested) mine.number = ++history.waits;
  promise.then(
    ({ index }) => {
      history.note(`${name}: wait ${String(mine.number)} got ${String(index)}`);
      waiting.delete(mine);
      if (mine.number < subject.served) history.violations.push('a later wait was served before an earlier one');
      if (!Number.isNaN(mine.number)) subject.served = mine.number;
      try {
        hold(history, subject, index, zero, true);
      } catch {
        // `violated` has recorded it.
      }
    },
    (error: unknown) => {
      history.note(`${name}: wait ${String(mine.number)} ended: ${String(error)}`);
      waiting.delete(mine);
      const isExpected = error instanceof GivenUp || isOfSource(error) || error instanceof DmaError;
      if (!isExpected) history.violations.push(`a wait was rejected with ${String(error)}`);
    },
  );
}

export function abort(history: HistoryState, { name, waiting }: Subject): void {
  if (waiting.size === 0) return;
  const { number, controller } = history.random.pick([...waiting]);
  history.note(`${name}: abort wait ${String(number)}`);
  controller.abort(new GivenUp('aborted'));
}

export function abortAll({ waiting }: Subject): void {
  for (const { controller } of waiting) controller.abort(new GivenUp('the end'));
}

/** Allocates all free blocks of a pool, which must not need another page: no block is lost. */
export function drain(history: HistoryState, subject: Subject): void {
  const { pool, options, held } = subject;
  const allocNext = (): number => {
    try {
      return allocOne(pool, history.random, { zero: false, grow: false });
    } catch (error) {
      if (error instanceof DmaError) return -1;
      throw error;
    }
  };
  for (let index = allocNext(); index >= 0; index = allocNext()) {
    subject.model?.take();
    hold(history, subject, index, false, true);
  }
  const { blocks, quarantined } = pool.statistics();
  const expected = Math.min(blocks - quarantined, options.maxBlocks ?? Infinity);
  history.note(`${subject.name}: drained to ${String(held.size)} of ${String(expected)}`);
  assert.equal(held.size, expected, 'held blocks after all free blocks were allocated');
}
