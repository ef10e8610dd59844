import type { PoolGeometry } from '../index.ts';
import { count, plural } from './style.ts';

/** Columns of a row. A power of two, so that boundaries fall between columns and at the same places in all rows. */
const COLUMNS = 64;
/** Rows of a page at most. */
const ROWS = 16;

/**
 * The page as rows of characters:
 *
 *     0x0000 |[0=====================][1=====================][2=============
 *     0x0100  =======]...
 */
export function drawLayout(geometry: PoolGeometry): string[] {
  const { allocation, effectiveBoundary, wastedBytes } = geometry;
  // A column is a power of two of bytes; of a page of 4096 it is 4.
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
    // Its number, where there is room for it between the brackets and in the row.
    const label = String(block);
    if (last - first > label.length && (first % COLUMNS) + label.length < COLUMNS) {
      Array.from(label).forEach((digit, i) => (cells[first + 1 + i] = digit));
    }
  }
  return cells;
}
