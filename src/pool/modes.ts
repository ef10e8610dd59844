import type { DebugBook } from './debug.ts';
import { DebugHooks, type DebugOptions } from './debug.ts';
import { type BlockHooks, InitHooks } from './hooks.ts';
import type { PoolPages } from './pages.ts';
import type { Wording } from './wording.ts';

/** What a pool does to blocks that change hands. */
export interface PoolModes {
  /** Debug mode, null for off. */
  readonly debug: DebugOptions | null;
  readonly initOnAlloc: boolean;
  readonly initOnFree: boolean;
  /** Default: its own words. */
  readonly wording?: Wording;
}

/** The hooks for these modes, null if none is needed. */
export function makeHooks(
  name: string,
  blockSize: number,
  pages: PoolPages,
  { debug, initOnAlloc, initOnFree, wording = 'own' }: PoolModes,
  book: DebugBook | null,
): BlockHooks | null {
  if (debug !== null && book !== null) {
    return new DebugHooks(name, blockSize, pages, debug, initOnAlloc, book, wording);
  }
  if (!initOnAlloc && !initOnFree) return null;
  return new InitHooks(initOnAlloc, initOnFree, (index) => {
    pages.fill(index, 0);
  });
}
