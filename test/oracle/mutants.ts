/** One-line faults that the kernel's hashes must reveal: geometry, text, order, page numbers, counts, refusals. */
import type { Mutant } from '../fuzz/mutant.ts';
import type { FormName } from './forms.ts';

const GEOMETRY = 'src/pool/geometry.ts';
const TEXT = 'src/pool/pools-attribute.ts';
const HOT = 'src/pool/hot-path.ts';
const BACKEND = 'src/pool/local-backend.ts';
const PAGES = 'src/pool/pages.ts';
const KERNEL = 'src/kernel/pool.ts';
const WORDING = 'src/kernel/wording.ts';
const DEPOT = 'src/shared/depot.ts';

function mutant(target: FormName, file: string, name: string, from: string, to: string): Mutant {
  return { target, file, name, from, to };
}

export const oracleMutants: readonly Mutant[] = [
  mutant(
    'object',
    GEOMETRY,
    'small sizes are raised to 8, not 16',
    'const MIN_BLOCK_SIZE = 16;',
    'const MIN_BLOCK_SIZE = 8;',
  ),
  mutant(
    'object',
    GEOMETRY,
    'a boundary equal to the size is rejected',
    "checkPowerOfTwo('boundary', boundary, blockSize, 2 ** 53);",
    "checkPowerOfTwo('boundary', boundary, blockSize + 1, 2 ** 53);",
  ),
  mutant(
    'object',
    GEOMETRY,
    'an align that is not a power of two is accepted',
    "if (align !== 0) checkPowerOfTwo('align', align, 1, 2 ** 30);",
    '',
  ),
  mutant(
    'object',
    GEOMETRY,
    'a boundary that is not a power of two is accepted',
    "checkPowerOfTwo('boundary', boundary, blockSize, 2 ** 53);",
    "checkInteger('boundary', boundary, blockSize, 2 ** 53);",
  ),
  mutant(
    'object',
    GEOMETRY,
    'the boundary is ignored',
    'boundary === 0 ? this.allocation : Math.min(boundary, this.allocation)',
    'this.allocation',
  ),
  mutant(
    'object',
    GEOMETRY,
    'a page has a block too few',
    'segments * this.#perSegment + Math.floor(tail / blockSize);',
    'Math.max(1, segments * this.#perSegment + Math.floor(tail / blockSize) - 1);',
  ),
  mutant(
    'object',
    GEOMETRY,
    'the gap before a boundary is not skipped',
    'return segment * this.effectiveBoundary + (n -',
    'return segment * this.#perSegment * this.blockSize + (n -',
  ),
  mutant('object', TEXT, 'names are cut to 30 bytes', 'NAME_BYTES = 31;', 'NAME_BYTES = 30;'),
  mutant('object', TEXT, 'names are padded to 15 bytes', 'const NAME_WIDTH = 16;', 'const NAME_WIDTH = 15;'),
  mutant('object', TEXT, 'the text can have 4,096 bytes', 'TEXT_BYTES = 4095;', 'TEXT_BYTES = 4096;'),
  mutant('object', TEXT, 'the oldest pool is first in the text', '[...pools].reverse()', '[...pools]'),
  mutant('object', TEXT, 'pages are padded to 3', 'String(pages).padStart(2)', 'String(pages).padStart(3)'),
  mutant(
    'object',
    TEXT,
    'the text has the size of a page instead of a block',
    '[active, blocks, geometry.blockSize]',
    '[active, blocks, geometry.allocation]',
  ),
  mutant(
    'object',
    TEXT,
    'the attribute remains after the last pool',
    '  list.forget();',
    '  lists.set(pool.device, list);',
  ),
  mutant(
    'object',
    HOT,
    'the blocks of a fresh page are allocated in descending order',
    'this.setTop(first);',
    'for (let index = last; index > first; index--) words[index] = index - 1;\n        words[first] = EMPTY;\n        this.setTop(last);',
  ),
  mutant(
    'index',
    HOT,
    'a free drops the next block of the free list',
    'words[block] = this.#head;',
    'words[block] = this.#head < 0 ? this.#head : words[this.#head]!;',
  ),
  mutant(
    'object',
    BACKEND,
    'each new page takes a second one',
    'if (memory === null) return NO_MEMORY;',
    'if (memory === null || allocPage(this.#device, geometry.allocation, node) === null) return NO_MEMORY;',
  ),
  mutant('object', PAGES, 'each page counts twice', '    this.#count++;', '    this.#count += 2;'),
  mutant(
    'object',
    PAGES,
    'a block has the address of the block before it',
    'this.#baseOf(this.pageOf(index)) + this.offsetOf(index) : -1',
    'this.#baseOf(this.pageOf(index)) + this.offsetOf(Math.max(0, index - 1)) : -1',
  ),
  mutant(
    'object',
    PAGES,
    'zalloc does not zero the last 16 bytes',
    'const end = offset + this.#geometry.blockSize;',
    'const end = offset + this.#geometry.blockSize - 16;',
  ),
  mutant(
    'index',
    HOT,
    'allocIndex ignores zero',
    '    if (zero === true) this.#slow.fill(index, 0);\n    return index;\n  }\n\n  // The slow half',
    '    return index;\n  }\n\n  // The slow half',
  ),
  mutant(
    'bulk',
    HOT,
    'a bulk free changes the order',
    'words[index] = head;\n      head = index;',
    'if (freed === 0) { words[index] = head; head = index; } else { words[index] = words[head]!; words[head] = index; }',
  ),
  mutant(
    'bulk',
    HOT,
    'a bulk allocation on the hot path counts a block too few',
    'const allocations = this.#allocations + count;',
    'const allocations = this.#allocations + count - 1;',
  ),
  mutant('kernel', KERNEL, 'dma_pool_zalloc does not zero', 'mem_flags | __GFP_ZERO, handle', 'mem_flags, handle'),
  mutant(
    'kernel',
    WORDING,
    'the busy message has the full name',
    '`dma_pool_destroy ${poolName(name)} busy',
    '`dma_pool_destroy ${name} busy',
  ),
  mutant(
    'kernel',
    KERNEL,
    'a busy pool is not destroyed',
    '  pool.destroy();\n}\n\n/**',
    '  if (pool.statistics().active === 0) pool.destroy();\n}\n\n/**',
  ),
  mutant(
    'shared',
    DEPOT,
    'a shared pool carves a block too few from a page',
    'return Math.max(0, Math.min(opened,',
    'return Math.max(0, Math.min(opened - 1,',
  ),
  mutant(
    'shared',
    DEPOT,
    'the depot counts a carved block too few',
    'this.#header[H_CARVED] = first + count;',
    'this.#header[H_CARVED] = first + count - 1;',
  ),
];
