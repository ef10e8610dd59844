import { PoolGeometry } from '../index.ts';
import { count, plural, type Style, table } from './style.ts';

/** The page size that the command speaks of: that of every memory source by default. */
const PAGE_SIZE = 4096;
/** From this part of a page unused, it is worth saying how to use it. */
const NOTABLE_WASTE = 1 / 8;

/** The figures of a layout as text, and what to think of them. */
export function layoutFigures(geometry: PoolGeometry, style: Style): string[] {
  const { size, align, blockSize, allocation, effectiveBoundary, blocksPerPage, wastedBytes } = geometry;
  const rounded: string[] = [];
  if (blockSize > size) {
    const why = align > 1 && blockSize > 16 ? `a multiple of ${count(align)}` : 'the least there is';
    rounded.push(`${count(size)} raised to ${why}; ${plural(blockSize - size, 'byte')} of each unused`);
  }
  const figures = table([
    ['block', `${count(blockSize)} bytes`],
    ['page', `${count(allocation)} bytes`],
    ['boundary', `${count(effectiveBoundary)} bytes`],
    ['blocks of a page', count(blocksPerPage)],
    ['in no block', plural(wastedBytes, 'byte')],
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
  if (boundary === 0) return 'none asked for: the page';
  return boundary > effectiveBoundary ? `${count(boundary)} asked for: no page reaches that far` : '';
}

function wasteRemark({ allocation, wastedBytes }: PoolGeometry): string {
  return wastedBytes === 0 ? '' : `${((wastedBytes / allocation) * 100).toFixed(1)} % of the page`;
}

/** Whether a pool is the right tool, and what else is. */
function advice(geometry: PoolGeometry): string[] {
  const { allocation, blockSize, blocksPerPage, wastedBytes } = geometry;
  const direct = `device.allocCoherent(${String(geometry.size)})`;
  if (blocksPerPage === 1) {
    const smaller = smallerSize(geometry);
    return [
      blockSize > PAGE_SIZE
        ? 'A pool is the wrong tool: a block is larger than a page.'
        : 'A pool is the wrong tool: a page holds one block.',
      `Each block is a coherent allocation of its own, of ${plural(Math.ceil(allocation / PAGE_SIZE), 'memory page')}` +
        `${wastedBytes > 0 ? `, with ${plural(wastedBytes, 'byte')} of it unused` : ''}; the pool only keeps it for reuse.`,
      `Use ${direct} for blocks that live as long as the driver` +
        (smaller === null
          ? '.'
          : `, or blocks of at most ${count(smaller.size)} bytes, of which a page holds ${count(smaller.blocks)}.`),
    ];
  }
  if (wastedBytes / allocation >= NOTABLE_WASTE) {
    const smaller = smallerSize(geometry);
    return [
      'A pool fits, but a good part of each page is unused.',
      ...(smaller === null
        ? []
        : [`With blocks of at most ${count(smaller.size)} bytes a page holds ${count(smaller.blocks)} of them.`]),
    ];
  }
  return ['A pool is the right tool.'];
}

/** The largest block size of which a page of 4096 bytes holds more, or null if none does. */
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
