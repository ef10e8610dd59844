/** How the memory of a pool of one thread becomes that of a shared pool, and how it goes back to the source. */
import { type Device, freePage } from '../device/device.ts';
import type { DmaError } from '../errors.ts';
import type { CoherentMemory } from '../memory/coherent.ts';
import { NO_MEMORY } from '../pool/refusal.ts';
import type { LocalBackend } from '../pool/local-backend.ts';

/**
 * Takes pages until there are `count`, numbered without a gap, and has `local` give up its memory. Changes nothing when it
 * throws.
 *
 * @param refuse Makes the error for a pool that can't be shared as things are now.
 * @param prepare Does, while the pool is still its own, all that may fail or that calls the memory source.
 * @returns The memory; how many of the pages, the first ones, may have blocks in use; what `prepare` returned.
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
    if (local.statistics().waiting > 0) throw refuse('a caller waits for a block; share it before');
  };
  local.checkOpen();
  // A call in the middle of its work would go on with pages that are no longer this store's.
  if (local.callsOut > 0) throw refuse('its memory source or log called sharePool() in the middle of another call');
  check();
  const intake = local.beginIntake(count);
  let goesOn = true;
  try {
    while (pages.count < Math.max(count, pages.limit / perPage)) {
      const page = goesOn ? local.openPage() : NO_MEMORY;
      local.checkOpen();
      if (page < 0) throw local.refused(page);
      goesOn = intake.opened(page, pages.count);
    }
    const memories = pages.memories();
    const prepared = local.callOut(() => prepare(memories));
    check();
    if (memories.length !== pages.count || !memories.every((memory, page) => pages.holds(page, memory))) {
      throw refuse('its pages changed while it was shared');
    }
    // From here on no code of the user's runs.
    let opened = memories.length;
    while (opened > 0 && intake.pages.has(opened - 1) && pages.carvedOf(opened - 1) === 0) opened--;
    intake.pages.clear();
    local.markGone();
    return { memories, opened, prepared };
  } finally {
    local.endIntake(intake);
  }
}

/** Gives all of `memories`, of `size` bytes each, back to the device's source, then throws the first error of the source. */
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
