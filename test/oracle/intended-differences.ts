/** The intended differences from Linux (see ARCHITECTURE.md) that calls can show, each with operations that show it. */
import type { FormName } from './forms.ts';
import { NO_GROW, type Operation, STACK } from './operation.ts';

/** Operations, and the answers of the kernel and of our pools, in the module's encoding. */
export interface IntendedDifference {
  readonly name: string;
  /** The beginning of its row in ARCHITECTURE.md's table. */
  readonly row: string;
  /** Our forms with these answers; by default {@link DEFAULT_FORMS}. */
  readonly forms?: readonly FormName[];
  readonly operations: readonly Operation[];
  readonly kernel: readonly string[];
  readonly ours: readonly string[];
}

export const DEFAULT_FORMS: readonly FormName[] = ['object', 'kernel'];

function create(name: string, size: number, align = 0, boundary = 0, slot = 0): Operation {
  return { kind: 'create', slot, size, align, boundary, name };
}

const TEXT: Operation = { kind: 'text' };
const DESTROY: Operation = { kind: 'destroy', slot: 0 };

function alloc(count: number, flags = 0): Operation {
  return { kind: 'alloc', slot: 0, flags, count };
}

/** Frees the blocks that were allocated last, in reverse order. */
function free(count: number): Operation {
  return { kind: 'free', slot: 0, order: STACK, count, position: 0 };
}

/** Returns the `pools` text of one pool, by default without pages. */
function text(name: string, size: number, active = 0, blocks = 0, pages = 0): string {
  const paddedName = name + ' '.repeat(Math.max(0, 16 - Buffer.byteLength(name)));
  const counts = [active, blocks, size].map((count) => String(count).padStart(4)).join(' ');
  return hex(`poolinfo - 0.1\n${paddedName} ${counts} ${String(pages).padStart(2)}\n`);
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
    row: 'makes a pool whose size after rounding',
    name: 'a rounded size of exactly 2^31 is rejected; the kernel makes a pool',
    operations: [create('big', 2 ** 31 - 1, 4), TEXT, DESTROY],
    kernel: ['1', text('big', 2 ** 31), DESTROYED],
    ours: NO_POOL,
  },
  {
    row: 'with an align of 2^32',
    name: 'an align of 2^32 or more is rejected; the kernel makes a pool of blocks of 0 bytes, whose first alloc never ends',
    operations: [create('endless', 64, 2 ** 32), TEXT, DESTROY],
    kernel: ['1', text('endless', 0), DESTROYED],
    ours: NO_POOL,
  },
  {
    row: "a pool's name may be empty",
    name: 'an empty name is rejected; the kernel makes a pool',
    operations: [create('', 64), TEXT, DESTROY],
    kernel: ['1', text('', 64), DESTROYED],
    ours: NO_POOL,
  },
  ...['\n', '\t', '\x1b[2J', '\x7f'].map((name) => ({
    row: "a pool's name may be empty",
    name: `a control character in a name is rejected (${escaped(name)}); the kernel makes a pool`,
    operations: [create(name, 64), TEXT, DESTROY],
    kernel: ['1', text(name, 64), DESTROYED],
    ours: NO_POOL,
  })),
  {
    row: 'cuts a name to 31 bytes',
    name: 'a name is cut to 31 bytes between characters; the kernel cuts also inside a character',
    operations: [create('é'.repeat(16), 64), TEXT, DESTROY],
    // The kernel's text has the first byte of the last é.
    kernel: ['1', text(`${'é'.repeat(15)}?`, 64).replace('3f', 'c3'), DESTROYED],
    ours: ['1', text('é'.repeat(15), 64), DESTROYED],
  },
  {
    row: 'destroying a busy pool',
    name: 'a busy destroy keeps only the pages of allocated blocks; the kernel leaks all pages',
    operations: [create('busy', 4096), alloc(3), free(2), DESTROY, { kind: 'kept' }],
    kernel: ['1', '0 0 1 1 0 1 2 0 1 3', '2', `${hex('dma_pool_destroy busy busy')} 0`, '3'],
    ours: ['1', '0 0 1 1 0 1 2 0 1 3', '2', `${hex('dma_pool_destroy busy busy')} 0`, '1'],
  },
  {
    row: 'links free blocks through the blocks',
    name: 'a device that writes to a free block changes no allocation; it makes the kernel allocate a block twice',
    operations: [create('links', 64), alloc(2), free(1), { kind: 'device-write', slot: 0 }, alloc(1), alloc(1)],
    kernel: ['1', '0 0 1 0 40 1 1', '1', '1', '0 40 1 1', '0 0 1 1'],
    ours: ['1', '0 0 1 0 40 1 1', '1', '1', '0 40 1 1', '0 80 1 1'],
  },
  {
    row: 'a driver keeps an address',
    name: 'a double free is rejected; it makes the kernel allocate the block twice',
    operations: [create('twice', 64), alloc(2), free(1), { kind: 'free-again', slot: 0 }, alloc(2)],
    kernel: ['1', '0 0 1 0 40 1 1', '1', '1', '0 40 1 0 40 1 1'],
    ours: ['1', '0 0 1 0 40 1 1', '1', '1', '0 40 1 0 80 1 1'],
  },
  {
    row: 'returns pages only at destroy',
    name: 'trim() returns pages without allocated blocks',
    operations: [create('trim', 4096), alloc(3), free(2), { kind: 'trim', slot: 0 }, TEXT],
    kernel: ['1', '0 0 1 1 0 1 2 0 1 3', '2', '3', text('trim', 4096, 1, 3, 3)],
    ours: ['1', '0 0 1 1 0 1 2 0 1 3', '2', '1', text('trim', 4096, 1, 1, 1)],
  },
  {
    row: 'lowering the DMA mask',
    name: 'a DMA mask below the memory of the device is rejected; the kernel accepts it',
    operations: [create('mask', 4096), alloc(2), { kind: 'mask', bits: 20 }],
    kernel: ['1', '0 0 1 1 0 1 2', '1'],
    ours: ['1', '0 0 1 1 0 1 2', '0'],
  },
  {
    row: '`GFP_ATOMIC` may take a page',
    name: '`grow: false` takes no page; GFP_ATOMIC may take one',
    forms: ['object'],
    operations: [create('grow', 2048), alloc(1, NO_GROW), alloc(1), alloc(1, NO_GROW), alloc(1, NO_GROW)],
    kernel: ['1', '0 0 1 1', '0 800 1 1', '1 0 1 2', '1 800 1 2'],
    ours: ['1', 'ffffffff 0', '0 0 1 1', '0 800 1 1', 'ffffffff 1'],
  },
  {
    row: "puts a fresh page's blocks before free ones",
    name: 'a block that is freed while a page is requested is allocated next; the kernel allocates from the page first',
    operations: [create('race', 2048), alloc(2), { kind: 'race', slot: 0 }, alloc(1), alloc(2), TEXT],
    kernel: ['1', '0 0 1 0 800 1 1', '1', '1 0 1 2', '1 800 1 0 800 1 2', text('race', 2048, 4, 4, 2)],
    ours: ['1', '0 0 1 0 800 1 1', '1', '0 800 1 2', '1 0 1 1 800 1 2', text('race', 2048, 4, 4, 2)],
  },
];

/** The other rows of ARCHITECTURE.md's table, each with the reason why calls on this kernel can't show it. */
export const NOT_SHOWN: Readonly<Record<string, string>> = {
  'does not poison the first 16 bytes': "Debian's kernel has no DMAPOOL_DEBUG",
  'reports a corrupted block': "Debian's kernel has no DMAPOOL_DEBUG",
  '`dma_pool_alloc` returns NULL': 'the form of the call differs, not its result',
  'takes a lock in every call': 'a difference of speed',
  'drops the lock to get a page': 'a race of two CPUs; the recording 6.12/nvme-grow shows it',
  'NUMA node, DMA mask, and the text': 'no difference',
  'kernels before 6.4': 'the recordings of 6.1 show it',
  'raises sizes to 16': 'no difference',
  'has no bulk call': 'the kernel has no such call',
};
