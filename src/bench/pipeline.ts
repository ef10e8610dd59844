import type { DmaPool } from '../index.ts';
import { type BenchGeometry } from './geometries.ts';
import { BULK } from './rounds.ts';
import { RingReader, RingWriter } from './ticket-ring.ts';

/** Blocks that go together: one ticket at a time, or as many as a bulk call of {@link BULK} takes. */
export type Batch = 1 | typeof BULK;
export const BATCHES: readonly Batch[] = [1, BULK];

export const PIPELINE_GEOMETRY: BenchGeometry = { size: 64, align: 64, boundary: 0 };
/** Blocks of the pipeline's pool: what the ring holds, and what two workers keep at hand. */
export const PIPELINE_BLOCKS = 4096;
/** Blocks in one call of {@link give} or {@link take}: few, for the reason that warm-up.ts gives. */
export const PIPELINE_CALL: number = BULK;

/** One worker's side of the pipeline; what it needs is made before the clock starts. */
export interface PipelineSide {
  readonly pool: DmaPool;
  readonly writer: RingWriter;
  readonly reader: RingReader;
  readonly indices: Int32Array;
  readonly tickets: Float64Array;
}

export function createSide(pool: DmaPool, ring: SharedArrayBuffer): PipelineSide {
  return {
    pool,
    writer: new RingWriter(ring),
    reader: new RingReader(ring),
    indices: new Int32Array(BULK),
    tickets: new Float64Array(BULK),
  };
}

/** Both halves handle {@link PIPELINE_CALL} blocks. */
export type Half = (side: PipelineSide) => void;

function giveSingly({ pool, writer, tickets }: PipelineSide): void {
  for (let i = 0; i < PIPELINE_CALL; i++) {
    tickets[0] = pool.transferIndex(pool.allocIndex());
    writer.write(tickets, 1);
  }
}

function takeSingly({ pool, reader, tickets }: PipelineSide): void {
  for (let i = 0; i < PIPELINE_CALL; i++) {
    reader.read(tickets, 1);
    pool.freeIndex(pool.acceptIndex(tickets[0]!));
  }
}

function giveBulk({ pool, writer, indices, tickets }: PipelineSide): void {
  pool.allocIndexBulk(indices, BULK);
  pool.transferIndexBulk(indices, tickets, BULK);
  writer.write(tickets, BULK);
}

function takeBulk({ pool, reader, indices, tickets }: PipelineSide): void {
  reader.read(tickets, BULK);
  pool.acceptIndexBulk(tickets, indices, BULK);
  pool.freeIndexBulk(indices, BULK);
}

/** What the first worker does, and what the second. */
export const HALVES: Readonly<Record<Batch, Readonly<Record<'give' | 'take', Half>>>> = {
  1: { give: giveSingly, take: takeSingly },
  32: { give: giveBulk, take: takeBulk },
};
