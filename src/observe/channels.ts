/** The `diagnostics_channel` events and their messages. */
import { channel, type Channel } from 'node:diagnostics_channel';

import { openPool } from '../dma-pool.ts';
import type { ObservedEvent } from '../memory/observer.ts';
import { AT_LIMIT, NO_MEMORY } from '../pool/refusal.ts';
import type { DmaPool } from '../pool/contract.ts';
import type { WorkerExit } from '../shared/recovery.ts';

/** Message of `dmapool:page`: a pool took a page from its memory source, or returned one. */
export interface PageMessage {
  /** The pool. */
  readonly pool: DmaPool;
  /** True if the page was taken, false if it was returned. */
  readonly opened: boolean;
  /** Number of the page; null in a shared pool. */
  readonly page: number | null;
}

/** Message of `dmapool:exhausted`: a call got no block. */
export interface ExhaustedMessage {
  /** The pool. */
  readonly pool: DmaPool;
  /** The memory source is exhausted, the pool's limit is reached, or the call allowed no new page. */
  readonly reason: 'memory' | 'limit' | 'no-free-block';
}

/** Message of `dmapool:corrupted`: a block was written to while it was free (debug mode). */
export interface CorruptedMessage {
  /** The pool. */
  readonly pool: DmaPool;
  /** Index of the block. */
  readonly index: number;
  /** Its DMA address. */
  readonly dma: number;
}

/** Message of `dmapool:leak`: blocks were allocated when the pool was destroyed, or (debug mode) when the process ended. */
export interface LeakMessage {
  /** The pool. */
  readonly pool: DmaPool;
  /** Number of blocks. */
  readonly blocks: number;
}

/** Message of `dmapool:worker-exit`: a worker of a shared pool exited, and its free blocks were returned. */
export interface WorkerExitMessage extends WorkerExit {
  /** The pool. */
  readonly pool: DmaPool;
}

/** The messages by the names of their channels, without the prefix `dmapool:`. */
export interface ChannelMessages {
  /** A page was taken or returned. */
  readonly page: PageMessage;
  /** A call got no block. */
  readonly exhausted: ExhaustedMessage;
  /** A free block was written to. */
  readonly corrupted: CorruptedMessage;
  /** Blocks leaked. */
  readonly leak: LeakMessage;
  /** A worker exited. */
  readonly 'worker-exit': WorkerExitMessage;
}

/** Names of the channels. */
export const CHANNELS: readonly (keyof ChannelMessages)[] = ['page', 'exhausted', 'corrupted', 'leak', 'worker-exit'];

const channels = new Map<ObservedEvent, Channel>(CHANNELS.map((name) => [name, channel(`dmapool:${name}`)]));

/** Sends an event of a pool to the subscribers of its channel, if any. */
export function sendEvent(name: ObservedEvent, pool: DmaPool, details: unknown): void {
  const to = channels.get(name);
  if (to?.hasSubscribers === true) to.publish(messageOf(name, pool, details));
}

function messageOf(name: ObservedEvent, pool: DmaPool, details: unknown): ChannelMessages[keyof ChannelMessages] {
  switch (name) {
    case 'page': {
      const page = details as number | null;
      const opened = page === null || page >= 0;
      return { pool, opened, page: page === null || opened ? page : -1 - page };
    }
    case 'exhausted':
      return { pool, reason: details === NO_MEMORY ? 'memory' : details === AT_LIMIT ? 'limit' : 'no-free-block' };
    case 'corrupted': {
      const index = details as number;
      return { pool, index, dma: openPool(pool).backend.pages.dmaOf(index) };
    }
    case 'leak':
      return { pool, blocks: details as number };
    case 'worker-exit':
      return { pool, ...(details as WorkerExit) };
  }
}
