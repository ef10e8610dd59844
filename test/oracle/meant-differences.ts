/** The differences from Linux that we mean (ARCHITECTURE.md lists them), each with a list of operations that shows it. */
import type { Operation } from './operation.ts';

/** A list of operations, what the kernel answers to them and what we do, in the words of the module. */
export interface MeantDifference {
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

/** The text of one pool without pages. */
function text(name: string, size: number): string {
  const pad = ' '.repeat(Math.max(0, 16 - Buffer.byteLength(name)));
  return hex(`poolinfo - 0.1\n${name}${pad}    0    0 ${String(size).padStart(4)}  0\n`);
}

function hex(text: string): string {
  return Buffer.from(text).toString('hex');
}

const DESTROYED = '0';
const NO_POOL = ['0', '-', '0'];

export const MEANT_DIFFERENCES: readonly MeantDifference[] = [
  {
    name: 'a size of exactly 2^31 after rounding is refused: block sizes are 31 bits',
    operations: [create('big', 2 ** 31 - 1, 4), TEXT, DESTROY],
    kernel: ['1', text('big', 2 ** 31), DESTROYED],
    ours: NO_POOL,
  },
  {
    name: 'an align from 2^32 on is refused: the kernel makes a pool of blocks without bytes, and its first alloc never ends',
    operations: [create('endless', 64, 2 ** 32), TEXT, DESTROY],
    kernel: ['1', text('endless', 0), DESTROYED],
    ours: NO_POOL,
  },
  {
    name: 'an empty name is refused: a line of `pools` could not be told from a broken one',
    operations: [create('', 64), TEXT, DESTROY],
    kernel: ['1', text('', 64), DESTROYED],
    ours: NO_POOL,
  },
  ...['\n', '\t', '\x1b[2J', '\x7f'].map((name) => ({
    name: `a control character in a name is refused (${JSON.stringify(name)}): it would break lines of \`pools\` and of logs`,
    operations: [create(name, 64), TEXT, DESTROY],
    kernel: ['1', text(name, 64), DESTROYED],
    ours: NO_POOL,
  })),
  {
    name: 'a name is cut between characters, so that the text stays UTF-8; the kernel cuts between bytes',
    operations: [create('é'.repeat(16), 64), TEXT, DESTROY],
    // Half of the last é.
    kernel: ['1', text(`${'é'.repeat(15)}?`, 64).replace('3f', 'c3'), DESTROYED],
    ours: ['1', text('é'.repeat(15), 64), DESTROYED],
  },
  {
    name: 'a busy destroy keeps only the pages that have blocks out; the kernel keeps them all, for ever',
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
