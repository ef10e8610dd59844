/**
 * Direct I/O: writes and reads a file with O_DIRECT, past the kernel's page cache, with eight requests in flight.
 *
 *     node dist/examples/direct-io.js [FOLDER]      Linux; FOLDER is on a file system with O_DIRECT. Default: this one
 *
 * The kernel accepts only memory, lengths and positions at multiples of the disk's block size. A pool with align 4096
 * has such blocks; `Buffer.alloc` gives no such promise. The pool also limits the memory and the requests in flight.
 */
import { createHash, randomFillSync } from 'node:crypto';
import { constants, mkdtempSync, rmSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Device, type DmaBlock, DmaPool } from 'dmapool';

const SIZE = 64 * 1024;
const DEPTH = 8;
const CHUNKS = 256;

type ChunkPool = DmaPool<'chunk'>;

/** Writes random chunks; returns their hash. */
async function writeChunks(file: FileHandle, pool: ChunkPool): Promise<string> {
  const hash = createHash('sha256');
  const writes: Promise<void>[] = [];
  let failed = false;
  for (let i = 0; i < CHUNKS && !failed; i++) {
    const block = await pool.allocWait(); // waits while eight writes are in flight
    hash.update(randomFillSync(block.bytes));
    const write = async (): Promise<void> => {
      try {
        const { bytesWritten } = await file.write(block.bytes, 0, SIZE, i * SIZE);
        if (bytesWritten !== SIZE) throw new Error(`only ${bytesWritten} bytes were written`);
      } finally {
        pool.free(block); // the kernel used the block until now, whatever the result
      }
    };
    const done = write();
    done.catch(() => {
      failed = true;
    });
    writes.push(done);
  }
  await Promise.allSettled(writes);
  await Promise.all(writes); // throws the first error
  return hash.digest('hex');
}

interface Read {
  readonly block: DmaBlock<'chunk'>;
  readonly done: Promise<{ bytesRead: number }>;
}

/** Reads the file in order, eight chunks ahead; returns its hash. */
async function readChunks(file: FileHandle, pool: ChunkPool): Promise<string> {
  const hash = createHash('sha256');
  const reads: Read[] = [];
  let position = 0;
  let ended = false;
  try {
    while (!ended) {
      for (let block = pool.tryAlloc(); block !== null; block = pool.tryAlloc()) {
        const done = file.read(block.bytes, 0, SIZE, position);
        done.catch(() => undefined); // reported where it is awaited
        reads.push({ block, done });
        position += SIZE;
      }
      const { bytesRead } = await reads[0]!.done;
      const { block } = reads.shift()!;
      hash.update(block.bytes.subarray(0, bytesRead));
      pool.free(block);
      ended = bytesRead < SIZE;
    }
  } finally {
    for (const { block, done } of reads) {
      await Promise.allSettled([done]);
      pool.free(block);
    }
  }
  return hash.digest('hex');
}

async function withFile<T>(path: string, flags: number, use: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path, flags | constants.O_DIRECT);
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

const folder = mkdtempSync(join(resolve(process.argv[2] ?? '.'), 'direct-io-'));
const pool = DmaPool.create('chunk', new Device({ name: 'direct-io' }), { size: SIZE, align: 4096, maxBlocks: DEPTH });
try {
  const path = join(folder, 'data');
  const written = await withFile(path, constants.O_CREAT | constants.O_WRONLY, (file) => writeChunks(file, pool));
  const read = await withFile(path, constants.O_RDONLY, (file) => readChunks(file, pool));
  const { pages, active } = pool.statistics();
  console.log(`${(CHUNKS * SIZE) / 2 ** 20} MiB written and read with O_DIRECT, ${pages} blocks of ${SIZE} bytes used`);
  console.log(`the same bytes: ${String(written === read)}; blocks in use now: ${active}`);
} catch (error) {
  if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw error;
  console.log('this file system does not support O_DIRECT; pass a folder on another one');
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true });
}
pool.destroy();
