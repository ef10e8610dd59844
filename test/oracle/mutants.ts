/** Mistakes of one line each that the kernel's answers must reveal: geometry, text, order, page number, counts, refusals. */
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
  mutant('object', GEOMETRY, 'small sizes are raised to 8', 'const MIN_BLOCK_SIZE = 16;', 'const MIN_BLOCK_SIZE = 8;'),
  mutant(
    'object',
    GEOMETRY,
    'a boundary of exactly the size is refused',
    "checkPowerOfTwo('boundary', boundary, blockSize, 2 ** 53);",
    "checkPowerOfTwo('boundary', boundary, blockSize + 1, 2 ** 53);",
  ),
  mutant(
    'object',
    GEOMETRY,
    'an align that is no power of two passes',
    "if (align !== 0) checkPowerOfTwo('align', align, 1, 2 ** 30);",
    '',
  ),
  mutant(
    'object',
    GEOMETRY,
    'a boundary that is no power of two passes',
    "checkPowerOfTwo('boundary', boundary, blockSize, 2 ** 53);",
    "checkInteger('boundary', boundary, blockSize, 2 ** 53);",
  ),
  mutant(
    'object',
    GEOMETRY,
    'the boundary does not hold',
    'boundary === 0 ? this.allocation : Math.min(boundary, this.allocation)',
    'this.allocation',
  ),
  mutant(
    'object',
    GEOMETRY,
    'the last block of a page is not made',
    'segments * this.#perSegment + Math.floor(tail / blockSize);',
    'Math.max(1, segments * this.#perSegment + Math.floor(tail / blockSize) - 1);',
  ),
  mutant(
    'object',
    GEOMETRY,
    'blocks behind a boundary begin where the gap does',
    'return segment * this.effectiveBoundary + (n -',
    'return segment * this.#perSegment * this.blockSize + (n -',
  ),
  mutant('object', TEXT, 'names are cut to 30 bytes', 'NAME_BYTES = 31;', 'NAME_BYTES = 30;'),
  mutant('object', TEXT, 'names are padded to 15', 'const NAME_WIDTH = 16;', 'const NAME_WIDTH = 15;'),
  mutant('object', TEXT, 'the text has a byte too many', 'TEXT_BYTES = 4095;', 'TEXT_BYTES = 4096;'),
  mutant('object', TEXT, 'the oldest pool comes first', '[...pools].reverse()', '[...pools]'),
  mutant('object', TEXT, 'pages are padded to 3', 'String(pages).padStart(2)', 'String(pages).padStart(3)'),
  mutant(
    'object',
    TEXT,
    'the size is not that of a block',
    '[active, blocks, geometry.blockSize]',
    '[active, blocks, geometry.allocation]',
  ),
  mutant(
    'object',
    TEXT,
    'the attribute stays after the last pool',
    '  list.forget();',
    '  lists.set(pool.device, list);',
  ),
  mutant(
    'object',
    HOT,
    'a fresh page’s blocks come out in descending order',
    'this.setTop(first);',
    'for (let index = last; index > first; index--) words[index] = index - 1;\n        words[first] = EMPTY;\n        this.setTop(last);',
  ),
  mutant(
    'index',
    HOT,
    'a freed block is the next one out, but the one after it is lost',
    'words[block] = this.#head;',
    'words[block] = this.#head < 0 ? this.#head : words[this.#head]!;',
  ),
  mutant(
    'object',
    BACKEND,
    'a page more than needed is taken',
    'if (memory === null) return NO_MEMORY;',
    'if (memory === null || allocPage(this.#device, geometry.allocation, node) === null) return NO_MEMORY;',
  ),
  mutant('object', PAGES, 'a page counts twice', '    this.#count++;', '    this.#count += 2;'),
  mutant(
    'object',
    PAGES,
    'a block’s address is that of the one before',
    'this.#baseOf(this.pageOf(index)) + this.offsetOf(index) : -1',
    'this.#baseOf(this.pageOf(index)) + this.offsetOf(Math.max(0, index - 1)) : -1',
  ),
  mutant(
    'object',
    PAGES,
    'zalloc leaves the last bytes of a block',
    'fill(value, offset, offset + this.#geometry.blockSize);',
    'fill(value, offset, offset + this.#geometry.blockSize - 16);',
  ),
  mutant(
    'index',
    HOT,
    'zalloc of an index is an alloc',
    '    if (zero === true) this.#slow.fill(index, 0);\n    return index;\n  }\n\n  // The cold half',
    '    return index;\n  }\n\n  // The cold half',
  ),
  mutant(
    'bulk',
    HOT,
    'a bulk free puts blocks back in another order',
    'words[index] = head;\n      head = index;',
    'if (freed === 0) { words[index] = head; head = index; } else { words[index] = words[head]!; words[head] = index; }',
  ),
  mutant(
    'bulk',
    HOT,
    'a bulk allocation on the fast path loses one count',
    'const allocations = this.#allocations + count;',
    'const allocations = this.#allocations + count - 1;',
  ),
  mutant('kernel', KERNEL, 'a zalloc is an alloc', 'mem_flags | __GFP_ZERO, handle', 'mem_flags, handle'),
  mutant(
    'kernel',
    WORDING,
    'the busy line has the whole name',
    '`dma_pool_destroy ${poolName(name)} busy',
    '`dma_pool_destroy ${name} busy',
  ),
  mutant(
    'kernel',
    KERNEL,
    'the pool is not destroyed while blocks are out',
    '  pool.destroy();\n}\n\n/**',
    '  if (pool.statistics().active === 0) pool.destroy();\n}\n\n/**',
  ),
  mutant(
    'shared',
    DEPOT,
    'a shared pool carves a block too few of a page',
    'return Math.max(0, Math.min(opened,',
    'return Math.max(0, Math.min(opened - 1,',
  ),
  mutant(
    'shared',
    DEPOT,
    'a list from the depot is one block longer than counted',
    'this.#header[H_CARVED] = first + count;',
    'this.#header[H_CARVED] = first + count - 1;',
  ),
];
