/** Moves the memory of a pool of one thread to a shared pool, and releases it at the end. */
import { type Device, freePage } from '../device/device.ts';
import type { DmaError } from '../errors.ts';
import type { CoherentMemory } from '../memory/coherent.ts';
import { NO_MEMORY } from '../pool/refusal.ts';
import type { LocalBackend } from '../pool/local-backend.ts';

/**
 * Allocates pages until the pool has pages 0 to `count` - 1, then removes its memory from `local`. Changes nothing if it
 * throws.
 *
 * @param refuse Creates the error for a pool that can't be shared now.
 * @param prepare Runs before the removal: all work that may fail or that calls the memory source.
 * @returns `memories`: the pages. `opened`: only the first `opened` pages may have carved blocks. `prepared`: the result
 *   of `prepare`.
 */
export function surrender<T>(
  local: LocalBackend,
  perPage: number,
  count: number,
  refuse: (why: string) => DmaError,
  prepare: (memories: readonly CoherentMemory[]) => T,
): { memories: readonly CoherentMemory[]; opened: number; prepared: T } {
  const { pages } = local;
  const check = (): void => {
    local.checkOpen();
    if (local.statistics().waiting > 0) throw refuse('it has waiters');
  };
  local.checkOpen();
  // An outer call would continue with pages that the backend no longer has.
  if (local.callsOut > 0) throw refuse('its memory source or log called sharePool() during another call');
  check();
  const intake = local.beginIntake(count);
  let more = true;
  try {
    while (pages.count < Math.max(count, pages.limit / perPage)) {
      const page = more ? local.openPage() : NO_MEMORY;
      local.checkOpen();
      if (page < 0) throw local.refused(page);
      more = intake.opened(page, pages.count);
    }
    const memories = pages.numbers().map((page) => pages.memoryOf(page)!);
    const prepared = local.callOut(() => prepare(memories));
    check();
    if (memories.length !== pages.count || !memories.every((memory, page) => pages.memoryOf(page) === memory)) {
      throw refuse('its pages changed during sharePool()');
    }
    // No user code runs from here on.
    let opened = memories.length;
    while (opened > 0 && intake.pages.has(opened - 1) && pages.carvedOf(opened - 1) === 0) opened--;
    intake.pages.clear();
    local.markGone();
    return { memories, opened, prepared };
  } finally {
    local.endIntake(intake);
  }
}

/** Frees all `memories`, of `size` bytes each, then calls `onGone` and throws the first error of the source. */
export function releaseAll(
  device: Device,
  memories: readonly CoherentMemory[],
  size: number,
  onGone: () => void,
): void {
  const errors: unknown[] = [];
  for (const memory of memories) {
    try {
      freePage(device, memory, size);
    } catch (error) {
      errors.push(error);
    }
  }
  onGone();
  if (errors.length > 0) throw errors[0];
}
