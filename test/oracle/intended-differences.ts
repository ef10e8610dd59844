/** The intended differences from Linux (see ARCHITECTURE.md) that calls can show, each with operations that show it. */
import type { Operation } from './operation.ts';

/** Operations, and the answers of the kernel and of our pools, in the module's encoding. */
export interface IntendedDifference {
  readonly name: string;
  readonly operations: readonly Operation[];
  readonly kernel: readonly string[];
  readonly ours: readonly string[];
}

function create(name: string, size: number, align = 0, boundary = 0, slot = 0): Operation {
  return { kind: 'create', slot, size, align, boundary, name };
}

const TEXT: Operation = { kind: 'text' };
const DESTROY: Operation = { kind: 'destroy', slot: 0 };

function alloc(count: number): Operation {
  return { kind: 'alloc', slot: 0, flags: 0, count };
}

/** Returns the `pools` text of one pool without pages. */
function text(name: string, size: number): string {
  const pad = ' '.repeat(Math.max(0, 16 - Buffer.byteLength(name)));
  return hex(`poolinfo - 0.1\n${name}${pad}    0    0 ${String(size).padStart(4)}  0\n`);
}

/** Returns a name as a JSON string, with DEL escaped too. */
function escaped(name: string): string {
  return JSON.stringify(name).replace('\x7f', '\\u007f');
}

function hex(text: string): string {
  return Buffer.from(text).toString('hex');
}

const DESTROYED = '0';
const NO_POOL = ['0', '-', '0'];

export const INTENDED_DIFFERENCES: readonly IntendedDifference[] = [
  {
    name: 'a rounded size of exactly 2^31 is rejected; the kernel makes a pool',
    operations: [create('big', 2 ** 31 - 1, 4), TEXT, DESTROY],
    kernel: ['1', text('big', 2 ** 31), DESTROYED],
    ours: NO_POOL,
  },
  {
    name: 'an align of 2^32 or more is rejected; the kernel makes a pool of blocks of 0 bytes, whose first alloc never ends',
    operations: [create('endless', 64, 2 ** 32), TEXT, DESTROY],
    kernel: ['1', text('endless', 0), DESTROYED],
    ours: NO_POOL,
  },
  {
    name: 'an empty name is rejected; the kernel makes a pool',
    operations: [create('', 64), TEXT, DESTROY],
    kernel: ['1', text('', 64), DESTROYED],
    ours: NO_POOL,
  },
  ...['\n', '\t', '\x1b[2J', '\x7f'].map((name) => ({
    name: `a control character in a name is rejected (${escaped(name)}); the kernel makes a pool`,
    operations: [create(name, 64), TEXT, DESTROY],
    kernel: ['1', text(name, 64), DESTROYED],
    ours: NO_POOL,
  })),
  {
    name: 'a name is cut to 31 bytes between characters; the kernel cuts also inside a character',
    operations: [create('é'.repeat(16), 64), TEXT, DESTROY],
    // The kernel's text has the first byte of the last é.
    kernel: ['1', text(`${'é'.repeat(15)}?`, 64).replace('3f', 'c3'), DESTROYED],
    ours: ['1', text('é'.repeat(15), 64), DESTROYED],
  },
  {
    name: 'a busy destroy keeps only the pages of allocated blocks; the kernel leaks all pages',
    operations: [
      create('busy', 4096),
      alloc(3),
      { kind: 'free', slot: 0, order: 0, count: 2, position: 0 },
      DESTROY,
      { kind: 'kept' },
    ],
    kernel: ['1', '0 0 1 1 0 1 2 0 1 3', '2', `${hex('dma_pool_destroy busy busy')} 0`, '3'],
    ours: ['1', '0 0 1 1 0 1 2 0 1 3', '2', `${hex('dma_pool_destroy busy busy')} 0`, '1'],
  },
];
