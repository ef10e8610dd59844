/** Sends chunks of a file to a socket, with buffers of one of four kinds. */
import { closeSync, fstatSync, openSync, read } from 'node:fs';
import type { Socket } from 'node:net';

import { Device, DmaPool } from '../../src/index.ts';

/** Bytes of a chunk. */
export const CHUNK = 65_536;
/** Buffers that a contender may use at a time, for chunks that are read or written. */
export const DEPTH = 8;

/** Where the buffers come from. */
export type Contender = 'pool' | 'alloc' | 'allocUnsafe' | 'reused';
export const CONTENDERS: readonly Contender[] = ['pool', 'alloc', 'allocUnsafe', 'reused'];

/** A supply of buffers. `take` waits while all are in use, unless `wait` is false: then it returns null. */
interface Supply {
  take(wait: boolean): Buffer | null | Promise<Buffer>;
  give(buffer: Buffer): void;
}

function poolSupply(): Supply {
  const pool = DmaPool.create('chunk', new Device({ name: 'bench' }), { size: CHUNK, align: 4096, maxBlocks: DEPTH });
  // A Buffer for each block, made once: `socket.write` would make one of each Uint8Array.
  const buffers = Array.from({ length: DEPTH }, () => {
    const { bytes } = pool.alloc();
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  });
  const indices = new Map(buffers.map((buffer, index) => [buffer, index]));
  for (let index = DEPTH - 1; index >= 0; index--) pool.freeIndex(index);
  return {
    take(wait) {
      const index = pool.tryAllocIndex();
      if (index >= 0) return buffers[index]!;
      return wait ? pool.allocWait().then((block) => buffers[block.index]!) : null;
    },
    give(buffer) {
      pool.freeIndex(indices.get(buffer)!);
    },
  };
}

/** At most `depth` buffers, each from `make`. */
function limitedSupply(depth: number, make: () => Buffer): Supply {
  let used = 0;
  let waiter: ((buffer: Buffer) => void) | null = null;
  return {
    take(wait) {
      if (used < depth) {
        used++;
        return make();
      }
      return wait ? new Promise((resolve) => (waiter = resolve)) : null;
    },
    give() {
      if (waiter === null) {
        used--;
        return;
      }
      const resolve = waiter;
      waiter = null;
      resolve(make());
    },
  };
}

function supplyOf(contender: Contender): Supply {
  switch (contender) {
    case 'pool':
      return poolSupply();
    case 'alloc':
      return limitedSupply(DEPTH, () => Buffer.alloc(CHUNK));
    case 'allocUnsafe':
      return limitedSupply(DEPTH, () => Buffer.allocUnsafe(CHUNK));
    case 'reused': {
      const buffer = Buffer.alloc(CHUNK);
      return limitedSupply(1, () => buffer);
    }
  }
}

/** Sends chunks to a socket, in the order of the file. */
export class Sender {
  readonly #fd: number;
  readonly #chunksOfFile: number;
  readonly #supply: Supply;
  #position = 0;

  /** @param path A file of whole chunks. */
  constructor(path: string, contender: Contender) {
    this.#fd = openSync(path, 'r');
    this.#chunksOfFile = Math.floor(fstatSync(this.#fd).size / CHUNK);
    this.#supply = supplyOf(contender);
  }

  /** With callbacks: each request of `fs/promises` makes an ArrayBuffer of its own, of 288 bytes. */
  #read(buffer: Buffer): Promise<void> {
    const at = (this.#position++ % this.#chunksOfFile) * CHUNK;
    return new Promise((resolve, reject) => {
      read(this.#fd, buffer, 0, CHUNK, at, (error, bytes) => {
        if (error !== null) reject(error);
        else if (bytes < CHUNK) reject(new Error(`only ${String(bytes)} bytes read`));
        else resolve();
      });
    });
  }

  /** Sends the next `chunks` chunks; begins again at the end of the file. `onChunk` is called after each. */
  async send(socket: Socket, chunks: number, onChunk: (sent: number) => void): Promise<void> {
    const supply = this.#supply;
    const reads: { readonly buffer: Buffer; readonly done: Promise<void> }[] = [];
    let started = 0;
    let written = 0;
    let failure: Error | null = null;
    let finish: () => void = () => undefined;
    const finished = new Promise<void>((resolve) => (finish = resolve));
    for (let sent = 0; sent < chunks && failure === null; sent++) {
      // Read ahead while there are free buffers; wait for one only if nothing else is in flight here.
      while (started < chunks) {
        const taken = supply.take(reads.length === 0);
        if (taken === null) break;
        const buffer = taken instanceof Promise ? await taken : taken;
        reads.push({ buffer, done: this.#read(buffer) });
        started++;
      }
      const { buffer, done } = reads.shift()!;
      await done;
      // The socket uses the buffer until the callback.
      socket.write(buffer, (error) => {
        supply.give(buffer);
        failure ??= error ?? null;
        if (++written === chunks || failure !== null) finish();
      });
      onChunk(sent);
    }
    await finished;
    if (failure !== null) throw failure as Error;
  }

  close(): void {
    closeSync(this.#fd);
  }
}
