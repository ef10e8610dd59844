import type { Command } from 'commander';

import { DmaArgumentError, PoolGeometry } from '../index.ts';
import { CliExit, type CliIo, EXIT } from './io.ts';
import { parseBytes } from './numbers.ts';
import { count, plural, type Style, styleFor, table } from './style.ts';

interface LayoutFlags {
  readonly size: number;
  readonly align?: number;
  readonly boundary?: number;
  readonly json?: true;
}

/** Output of `dmapool layout --json`. */
export interface LayoutDocument {
  readonly size: number;
  readonly align: number;
  readonly boundary: number;
  readonly blockSize: number;
  readonly allocation: number;
  readonly effectiveBoundary: number;
  readonly blocksPerPage: number;
  readonly wastedBytes: number;
  readonly offsets: readonly number[];
}

/** Adds `dmapool layout`. */
export function registerLayout(program: Command, io: CliIo): void {
  program
    .command('layout')
    .summary('show how a page is cut into blocks')
    .description('Show how a pool with this geometry cuts its pages into blocks, and whether a pool is the right tool.')
    .requiredOption('--size <bytes>', 'size of a block', parseBytes)
    .option('--align <bytes>', 'alignment of each block: a power of two', parseBytes)
    .option('--boundary <bytes>', 'multiple that no block crosses: a power of two', parseBytes)
    .option('--json', 'print a JSON document')
    .addHelpText(
      'after',
      '\nBytes may be hexadecimal (0x1000) or have a suffix (4K, 2M).\n\nExample:\n  $ dmapool layout --size 68 --align 32 --boundary 4K',
    )
    .action(({ json, ...flags }: LayoutFlags) => {
      const geometry = createGeometry(flags);
      if (json === true) {
        io.stdout.write(`${JSON.stringify(layoutJson(geometry))}\n`);
        return;
      }
      const style = styleFor(io.stdout, io.env);
      io.stdout.write([...drawLayout(geometry), '', ...layoutFigures(geometry, style), ''].join('\n'));
    });
}

function createGeometry({ size, align = 0, boundary = 0 }: LayoutFlags): PoolGeometry {
  try {
    return new PoolGeometry({ size, align, boundary });
  } catch (error) {
    if (error instanceof DmaArgumentError) throw new CliExit(EXIT.usage, `layout: --${error.message}`);
    throw error;
  }
}

function layoutJson(geometry: PoolGeometry): LayoutDocument {
  const { size, align, boundary, blockSize, allocation, effectiveBoundary, blocksPerPage, wastedBytes } = geometry;
  const offsets = Array.from({ length: blocksPerPage }, (_, i) => geometry.offsetOf(i));
  return { size, align, boundary, blockSize, allocation, effectiveBoundary, blocksPerPage, wastedBytes, offsets };
}

// ---- drawing

/** Columns of a row: a power of two, so that boundaries fall between columns, at the same column in all rows. */
const COLUMNS = 64;
/** Maximum rows of a page. */
const ROWS = 16;

/**
 * The page as rows of characters:
 *
 *     0x0000 |[0=====================][1=====================][2=============
 *     0x0100  =======]...
 */
function drawLayout(geometry: PoolGeometry): string[] {
  const { allocation, effectiveBoundary, wastedBytes } = geometry;
  // Bytes of a column: a power of two, 4 for a page of 4096.
  const unit = 2 ** Math.max(0, Math.ceil(Math.log2(allocation / (COLUMNS * ROWS))));
  const cells = paintCells(geometry, unit);
  const rowBytes = unit * COLUMNS;
  const digits = Math.max(4, (allocation - 1).toString(16).length);

  const lines = Array.from({ length: Math.ceil(allocation / rowBytes) }, (_, row) => {
    const start = row * rowBytes;
    let text = start % effectiveBoundary === 0 ? '|' : ' ';
    for (let column = 0; column < COLUMNS && start + column * unit < allocation; column++) {
      if (column > 0 && (start + column * unit) % effectiveBoundary === 0) text += '|';
      text += cells[row * COLUMNS + column] ?? '';
    }
    const isEnd = (start + rowBytes) % effectiveBoundary === 0 || start + rowBytes >= allocation;
    return `0x${start.toString(16).padStart(digits, '0')} ${text}${isEnd ? '|' : ''}`;
  });
  const legend = `a column is ${plural(unit, 'byte')}; [==] a block${wastedBytes > 0 ? ', . unused' : ''}, | a boundary`;
  return [`A page of ${count(allocation)} bytes: ${legend}`, '', ...lines];
}

/** One character for each column of the page. */
function paintCells(geometry: PoolGeometry, unit: number): string[] {
  const { allocation, blockSize, blocksPerPage } = geometry;
  const cells = new Array<string>(Math.ceil(allocation / unit)).fill('.');
  for (let block = 0; block < blocksPerPage; block++) {
    const offset = geometry.offsetOf(block);
    const first = Math.floor(offset / unit);
    const last = Math.floor((offset + blockSize - 1) / unit);
    cells.fill('=', first, last);
    cells[last] = ']';
    cells[first] = '[';
    // The block's number, if it fits between the brackets and in the row.
    const label = String(block);
    if (last - first > label.length && (first % COLUMNS) + label.length < COLUMNS) {
      Array.from(label).forEach((digit, i) => (cells[first + 1 + i] = digit));
    }
  }
  return cells;
}

// ---- figures

/** The default page size of memory sources. */
const PAGE_SIZE = 4096;
/** Fraction of unused bytes from which the command gives advice. */
const NOTABLE_WASTE = 1 / 8;

/** The figures of a layout as text, with remarks. */
function layoutFigures(geometry: PoolGeometry, style: Style): string[] {
  const { size, align, blockSize, allocation, effectiveBoundary, blocksPerPage, wastedBytes } = geometry;
  const rounded: string[] = [];
  if (blockSize > size) {
    const why = align > 1 && blockSize > 16 ? `a multiple of ${count(align)}` : 'the minimum';
    rounded.push(`${count(size)} raised to ${why}; ${plural(blockSize - size, 'byte')} of each unused`);
  }
  const figures = table([
    ['block', `${count(blockSize)} bytes`],
    ['page', `${count(allocation)} bytes`],
    ['boundary', `${count(effectiveBoundary)} bytes`],
    ['blocks in a page', count(blocksPerPage)],
    ['unused', plural(wastedBytes, 'byte')],
  ]);
  const remarks = [rounded.join(''), pageRemark(geometry), boundaryRemark(geometry), '', wasteRemark(geometry)];
  return [
    ...figures.map((line, i) => `  ${line}${remarks[i] === '' ? '' : `   (${remarks[i] ?? ''})`}`),
    '',
    ...advice(geometry).map((line, i) => (i === 0 ? style.bold(line) : line)),
  ];
}

function pageRemark({ allocation }: PoolGeometry): string {
  const pages = Math.ceil(allocation / PAGE_SIZE);
  if (pages === 1) return '';
  const rest = pages * PAGE_SIZE - allocation;
  return `${plural(pages, 'memory page')}${rest > 0 ? `, of which ${plural(rest, 'byte')} are unused` : ''}`;
}

function boundaryRemark({ boundary, effectiveBoundary }: PoolGeometry): string {
  if (boundary === 0) return 'default: the page';
  return boundary > effectiveBoundary ? `${count(boundary)} exceeds the page` : '';
}

function wasteRemark({ allocation, wastedBytes }: PoolGeometry): string {
  return wastedBytes === 0 ? '' : `${((wastedBytes / allocation) * 100).toFixed(1)} % of the page`;
}

/** Tells whether a pool is the right tool, and names the alternative. */
function advice(geometry: PoolGeometry): string[] {
  const { allocation, blockSize, blocksPerPage, wastedBytes } = geometry;
  const direct = `device.allocCoherent(${String(geometry.size)})`;
  if (blocksPerPage === 1) {
    const smaller = smallerSize(geometry);
    return [
      blockSize > PAGE_SIZE
        ? 'A pool is the wrong tool: a block is larger than a page.'
        : 'A pool is the wrong tool: a page holds one block.',
      `Each block takes a coherent allocation of ${plural(Math.ceil(allocation / PAGE_SIZE), 'memory page')}` +
        `${wastedBytes > 0 ? `, with ${plural(wastedBytes, 'byte')} unused` : ''}; the pool only keeps it for reuse.`,
      `Use ${direct} for blocks that live as long as the driver` +
        (smaller === null
          ? '.'
          : `, or blocks of at most ${count(smaller.size)} bytes: a page holds ${count(smaller.blocks)}.`),
    ];
  }
  if (wastedBytes / allocation >= NOTABLE_WASTE) {
    const smaller = smallerSize(geometry);
    return [
      'A pool fits, but much of each page is unused.',
      ...(smaller === null
        ? []
        : [`With blocks of at most ${count(smaller.size)} bytes a page holds ${count(smaller.blocks)} of them.`]),
    ];
  }
  return ['A pool is the right tool.'];
}

/** The largest block size that puts more blocks into a page of 4096 bytes, or null. */
function smallerSize({ align, boundary, blocksPerPage }: PoolGeometry): { size: number; blocks: number } | null {
  const step = Math.max(align, 1);
  for (let blocks = blocksPerPage + 1; blocks <= PAGE_SIZE / 16; blocks++) {
    const size = Math.floor(PAGE_SIZE / blocks / step) * step;
    if (size < 16) return null;
    const candidate = new PoolGeometry({ size, align, boundary });
    if (candidate.blocksPerPage >= blocks) return { size, blocks: candidate.blocksPerPage };
  }
  return null;
}
