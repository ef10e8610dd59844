/** Mutants of the allocator and of shared pools. */
import type { Mutant } from './mutant.ts';

const HOT = 'src/pool/hot-path.ts';
const STORE = 'src/pool/local-backend.ts';
const PAGES = 'src/memory/page-allocator.ts';
const GEOMETRY = 'src/pool/geometry.ts';
const DEPOT = 'src/shared/depot.ts';
const RECOVERY = 'src/shared/recovery.ts';
const CORE = 'src/shared/core.ts';
const TRANSFERS = 'src/shared/transfers.ts';
const TICKETS = 'src/shared/wait-tickets.ts';

function allocator(file: string, name: string, from: string, to: string): Mutant {
  return { target: 'allocator', file, name, from, to };
}

function shared(file: string, name: string, from: string, to: string): Mutant {
  return { target: 'shared', file, name, from, to };
}

export const mutants: readonly Mutant[] = [
  allocator(
    HOT,
    'a bulk free that throws leaves the blocks before the bad one free',
    'words[index] = this.#mark;\n      index = next;',
    'index = next;',
  ),
  allocator(
    HOT,
    'a bulk allocation on the fast path loses one count',
    'const allocations = this.#allocations + count;',
    'const allocations = this.#allocations + count - 1;',
  ),
  allocator(
    HOT,
    'a duplicate in a bulk free of a held list is not detected',
    'words[index] = own === ALLOCATED ? RESERVED : EMPTY;',
    'words[index] = own;',
  ),
  allocator(
    HOT,
    'the free list is filtered without its last link',
    'if (last >= 0) words[last] = EMPTY;',
    'if (last > 0) words[last] = EMPTY;',
  ),
  allocator(
    STORE,
    'trim skips the last block of a page',
    'const end = first + this.pages.carvedOf(page);',
    'const end = first + this.pages.carvedOf(page) - 1;',
  ),
  allocator(
    STORE,
    'trim ignores blocks in quarantine',
    'word === ALLOCATED || word === QUARANTINED || word === RESERVED',
    'word === ALLOCATED || word === RESERVED',
  ),
  allocator(
    STORE,
    'the limit is off by one',
    'return this.#list.owned < this.#limit;',
    'return this.#list.owned <= this.#limit;',
  ),
  allocator(
    STORE,
    'a destroyed pool keeps its pages after the last free',
    "if (this.#state === 'destroyed' && this.#list.out === 0)",
    "if (this.#state === 'destroyed' && this.#list.out < 0)",
  ),
  allocator(
    STORE,
    'a block in quarantine is counted twice',
    'this.#list.addOwned(-change);',
    'this.#list.addOwned(0);',
  ),
  allocator('src/pool/waiting.ts', 'an aborted wait stays in the queue', 'this.waiters.delete(key);', 'void key;'),
  allocator(
    GEOMETRY,
    'a block crosses a boundary',
    'return segment * this.effectiveBoundary +',
    'return segment * this.#perSegment * this.blockSize +',
  ),
  allocator(
    'src/pool/debug.ts',
    'the last byte of a block is not checked for poison',
    'while (first < end && page',
    'while (first < end - 1 && page',
  ),
  allocator(
    'src/pool/hooks.ts',
    'initOnFree does nothing',
    'if (this.#modes.initOnFree)',
    'if (!this.#modes.initOnFree && !this.#modes.initOnAlloc)',
  ),
  allocator(PAGES, 'freed pages are not counted', 'this.#used -= to - from;', 'this.#used -= 1;'),
  allocator(
    PAGES,
    'a chunk of the tree may end after the range',
    'Math.min(to - page, leaf & -leaf)',
    'Math.min(to + 1 - page, leaf & -leaf)',
  ),
  allocator(
    PAGES,
    'bytes of the tree below a node stay stale',
    'if (value === 0 || value === at + 1) tree[node * 2]',
    'if (value === 0) tree[node * 2]',
  ),
  allocator('src/memory/page-table.ts', 'two keys of the page table share a leaf', '      this.#spare = null;\n', ''),
  allocator(
    STORE,
    'a trim of all pages keeps the free list',
    'if (this.pages.count === 0) this.#list.setTop(EMPTY);',
    'if (this.pages.count === 0) this.#list.setTop(this.#list.top);',
  ),
  allocator('src/pool/pages.ts', 'the hash of pages keeps removed pages', '    this.#hash.fill(NO_PAGE);\n', ''),
  allocator(
    'src/pool/pools-attribute.ts',
    'pools are listed oldest first',
    'poolsText([...pools].reverse())',
    'poolsText([...pools])',
  ),
  shared(
    DEPOT,
    'a list flushed to the depot drops the blocks of the depot',
    'this.#words[last] = this.#header[H_DEPOT]!;',
    'this.#words[last] = EMPTY;',
  ),
  shared(
    DEPOT,
    'the owner byte of a block taken from the depot is not set',
    'for (let i = 1; i < count; i++) {',
    'for (let i = 1; i < count - 1; i++) {',
  ),
  shared(
    RECOVERY,
    'recovery takes the magazines of live workers too',
    'if (this.#owners[index] === w) this.#giveFree(index, died);',
    'if (this.#owners[index] !== DEPOT) this.#giveFree(index, died);',
  ),
  shared(
    DEPOT,
    'one fresh block too many is carved',
    'this.#header[H_CARVED] = first + count;',
    'this.#header[H_CARVED] = first + count - 1;',
  ),
  shared(
    CORE,
    'a magazine counts one flushed block too few',
    'this.#list.addOwned(-taken);',
    'this.#list.addOwned(-taken + 1);',
  ),
  shared(TRANSFERS, 'a ticket can be accepted twice', '!== word) return false;', '=== 0) return false;'),
  shared(
    TRANSFERS,
    'accept does not set the owner byte',
    '    this.#owners[index] = this.#me;\n',
    '    void this.#me;\n',
  ),
  shared(
    TICKETS,
    'a served wait ticket stays at the head',
    '    this.#header[ticketAt(ticket)] = 0;\n    this.first();',
    '    this.first();',
  ),
  allocator(
    'src/device/device.ts',
    'memory above the mask is accepted',
    'if (last > this.#dmaMask) {',
    'if (last < 0) {',
  ),
  allocator(
    'src/pool/pages.ts',
    'a block of shared memory is filled with the byte of an earlier fill',
    'if (pattern[0] !== value) pattern.fill(value);',
    'if (pattern[0] === 0) pattern.fill(value);',
  ),
  allocator(
    'src/pool/pages.ts',
    'the last copy into a block that is longer than the pattern writes past the block',
    'view.set(pattern, Math.min(at, end - length));',
    'view.set(pattern, at);',
  ),
  // Visible only if a bulk allocation fails after it took blocks: in a pool with hooks and a block in quarantine.
  // Fuzzing rarely compares the order afterwards; test/pool/debug.test.ts does.
  allocator(
    HOT,
    'a failed bulk allocation is undone in the wrong order',
    'for (let i = count - 1; i >= 0; i--) this.#giveReserved',
    'for (let i = 0; i < count; i++) this.#giveReserved',
  ),
];
