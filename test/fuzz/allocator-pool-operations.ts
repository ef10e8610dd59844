/** The operations of a history of the allocator on whole pools, devices and their memory. */
import assert from 'node:assert/strict';
import { dmaBitMask, DmaError, type DmaPoolOptions } from 'dmapool';
import { PoolModel } from '../pool/pool-model.ts';
import { createPool, sharePool } from './allocator-api.ts';
import { checkError } from './allocator-invariants.ts';
import { fails, hasCode, type HistoryState, isOfSource, MASKS, PAGE, type Subject } from './allocator-state.ts';

const SHAPES: readonly DmaPoolOptions[] = [
  { size: 1 },
  { size: 16 },
  { size: 68, align: 32, boundary: 4096 },
  { size: 100, align: 64, boundary: 128 },
  { size: 256, align: 256 },
  { size: 700, boundary: 1024 },
  { size: 1500, boundary: 2048 },
  { size: 4096, align: 4096 },
  { size: 5000 },
  { size: 3000, align: 8, boundary: 16_384 },
];
const DEBUG: readonly NonNullable<DmaPoolOptions['debug']>[] = [
  true,
  true,
  { quarantine: false, sites: false },
  { sites: false },
];
const NAMES = ['rx', 'tx', 'a name longer than thirty-one bytes', 'ü-名前-プール-名前-プール', 'x'.repeat(16), '%s %d'];

export function create(history: HistoryState): void {
  const { random, subjects } = history;
  if (subjects.filter(({ state }) => state === 'open').length >= 5) return;
  const device = random.pick(history.devices);
  const options: DmaPoolOptions = {
    ...random.pick(SHAPES),
    ...(random.chance(0.4) ? { maxBlocks: 1 + random.below(random.pick([4, 70])) } : {}),
    ...(random.chance(0.25) ? { debug: random.pick(DEBUG) } : {}),
    ...(random.chance(0.2) ? { initOnAlloc: true } : {}),
    ...(random.chance(0.2) ? { initOnFree: true } : {}),
  };
  const managed = random.chance(0.4) && !history.detaching.has(device);
  const name = random.pick(NAMES);
  history.note(`create ${JSON.stringify(options)}${managed ? ' managed' : ''}`);
  const pool = createPool(name, device, options, managed);
  const { blocksPerPage, allocation } = pool.geometry;
  assert.ok(blocksPerPage >= 1 && allocation % PAGE <= allocation);
  subjects.push({
    name,
    pool,
    device,
    options,
    managed,
    held: new Map(),
    waiting: new Set(),
    corrupted: new Set(),
    model: history.isStrict ? new PoolModel(blocksPerPage, Infinity, options.maxBlocks ?? Infinity) : null,
    state: 'open',
    shared: false,
    served: 0,
  });
}

export function trim(history: HistoryState, subject: Subject): void {
  history.note(`${subject.name}: trim`);
  // A pool that a running detach has not destroyed yet may have idle pages.
  const ended = history.isEnding(subject) ? undefined : 0;
  const expected = subject.state === 'open' ? subject.model?.trim() : ended;
  // A nested call may share the pool during trim.
  const wasShared = subject.shared;
  let trimmed = 0;
  const isExpected = (error: unknown): boolean => {
    return isOfSource(error) || (wasShared && hasCode('ERR_DMAPOOL_NOT_TRIMMABLE')(error));
  };
  const failed = fails(isExpected, () => {
    trimmed = subject.pool.trim();
  });
  if (failed) return;
  if (wasShared) history.violated('a shared pool was trimmed');
  if (expected !== undefined && trimmed !== expected) {
    history.violated(`trim freed ${String(trimmed)} pages, not ${String(expected)}`);
  }
}

export function share(history: HistoryState, subject: Subject): void {
  const { pool, options, name, shared, state } = subject;
  if (shared || options.maxBlocks === undefined || state !== 'open') return;
  history.note(`${name}: share`);
  const { failed } = history.source;
  // A shared pool also detects the blocks corrupted so far, by another path.
  try {
    sharePool(pool);
    subject.shared = true;
  } catch (error) {
    if (!hasCode('ERR_DMAPOOL_NOT_SHAREABLE')(error)) checkError(history, 'share', subject, error, failed);
  }
}

export function destroy(history: HistoryState, subject: Subject): void {
  history.note(`${subject.name}: destroy with ${String(subject.held.size)} held`);
  if (subject.state === 'open') subject.state = 'destroyed';
  fails(isOfSource, () => {
    subject.pool.destroy();
  });
}

/** Changes one byte of a free block, as a faulty device might. */
export function corrupt(history: HistoryState, subject: Subject): void {
  const { random, source, subjects } = history;
  const { pool, device, held } = subject;
  const { allocation, blockSize, blocksPerPage } = pool.geometry;
  if (subject.state !== 'open' || subject.waiting.size > 0 || subject.shared) return;
  // May include pages of the device's other pools with the same page size.
  const pages = [...source.live].filter(([{ size }, owner]) => owner === device && size === allocation);
  if (pages.length === 0) return;
  const [page] = random.pick(pages);
  const dma = page.dma + pool.geometry.offsetOf(random.below(blocksPerPage));
  // The page may belong to another pool, and the block may be allocated or in quarantine.
  const isShared = subjects.some((other) => other.held.size > 0 && other !== subject && other.device === device);
  if (pool.indexAt(dma) >= 0 || held.has(dma) || isShared) return;
  try {
    pool.freeAt(dma);
    return;
  } catch (error) {
    if (!hasCode('ERR_DMAPOOL_NOT_ALLOCATED')(error) || String(error).includes('quarantine')) return;
  }
  const bytes = source.bytesAt(dma, blockSize, device);
  if (bytes === null) return;
  history.note(`${subject.name}: the device writes to ${dma.toString(16)}`);
  bytes[random.below(bytes.length)]! ^= 1 + random.below(255);
  subject.corrupted.add(dma);
}

// ---- devices

export function reclaim(history: HistoryState, { device }: Pick<Subject, 'device'>): void {
  const { subjects, reclaiming } = history;
  history.note(`${device.name}: reclaim`);
  for (const subject of subjects) {
    if (subject.device !== device || subject.state !== 'destroyed') continue;
    if (history.isEnding(subject) && !isDestroyed(subject)) continue;
    subject.state = 'gone';
    subject.held.clear();
  }
  const outermost = !reclaiming.has(device);
  reclaiming.add(device);
  try {
    fails(hasCode('ERR_DMAPOOL_RELEASE'), () => {
      device.reclaim();
    });
  } finally {
    if (outermost) reclaiming.delete(device);
  }
}

function isDestroyed({ pool }: Subject): boolean {
  return fails(hasCode('ERR_DMAPOOL_DESTROYED'), () => {
    pool.reserve(0);
  });
}

export function detach(history: HistoryState, { device }: Pick<Subject, 'device'>): void {
  const { subjects, detaching } = history;
  history.note(`${device.name}: detach`);
  for (const subject of subjects) {
    if (subject.device === device && subject.managed && subject.state === 'open') subject.state = 'destroyed';
  }
  const order: number[] = [];
  for (const n of [0, 1, 2]) device.addAction(() => order.push(n));
  detaching.add(device);
  try {
    fails(hasCode('ERR_DMAPOOL_RELEASE'), () => {
      device.detach();
    });
  } finally {
    detaching.delete(device);
  }
  if (order.join() !== '2,1,0') history.violated(`actions ran in the order ${order.join()}`);
}

export function setMask(history: HistoryState, { device }: Subject): void {
  const mask = dmaBitMask(history.random.pick(MASKS));
  const before = device.dmaMask;
  history.note(`${device.name}: mask ${mask.toString(16)}`);
  const refused = fails(hasCode('ERR_DMAPOOL_MASK'), () => {
    device.setDmaMask(mask);
  });
  if (refused) return;
  for (const { device: owner, held } of history.subjects) {
    if (owner !== device) continue;
    for (const { dma, bytes } of held.values()) {
      if (dma + bytes.length - 1 <= mask) continue;
      device.setDmaMask(before);
      history.violated('a mask below live memory of the device was accepted');
    }
  }
}

/** Allocates memory from the device or the source, and frees it through the device. */
export function useCoherent(history: HistoryState, { device }: Subject): void {
  const { random, source } = history;
  const size = 1 + random.below(2 * PAGE);
  const isExpected = (error: unknown): boolean => isOfSource(error) || error instanceof DmaError;
  fails(isExpected, () => {
    const memory = random.chance(0.5) ? device.allocCoherent(size) : source.allocCoherent({ device, size, node: -1 });
    if (memory?.dma === undefined) return;
    history.note(`${device.name}: coherent memory, ${String(size)} bytes`);
    if (new Uint8Array(memory.buffer, memory.byteOffset, size).some((byte) => byte !== 0)) {
      history.violated('coherent memory is not zero');
    }
    device.freeCoherent(memory);
  });
}
