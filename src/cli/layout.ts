import type { Command } from 'commander';

import { DmaArgumentError, PoolGeometry } from '../index.ts';
import { CliExit, type CliIo, EXIT } from './io.ts';
import { drawLayout } from './layout-drawing.ts';
import { layoutFigures } from './layout-figures.ts';
import { parseBytes } from './numbers.ts';
import { styleFor } from './style.ts';

interface LayoutFlags {
  readonly size: number;
  readonly align?: number;
  readonly boundary?: number;
  readonly json?: true;
}

/** What `dmapool layout --json` prints. */
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
    .description(
      'Show how a pool with these arguments cuts its pages into blocks, and whether a pool is the right tool.',
    )
    .requiredOption('--size <bytes>', 'bytes of a block', parseBytes)
    .option('--align <bytes>', 'alignment of each block: a power of two', parseBytes)
    .option('--boundary <bytes>', 'no block crosses a multiple of this: a power of two', parseBytes)
    .option('--json', 'print a JSON document')
    .addHelpText(
      'after',
      '\nBytes may be hexadecimal (0x1000) or have a suffix (4K, 2M).\n\nExample:\n  $ dmapool layout --size 68 --align 32 --boundary 4K',
    )
    .action((flags: LayoutFlags) => {
      const geometry = createGeometry(flags);
      if (flags.json === true) {
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
    if (error instanceof DmaArgumentError) throw new CliExit(EXIT.misused, `layout: --${error.message}`);
    throw error;
  }
}

function layoutJson(geometry: PoolGeometry): LayoutDocument {
  const { size, align, boundary, blockSize, allocation, effectiveBoundary, blocksPerPage, wastedBytes } = geometry;
  const offsets = Array.from({ length: blocksPerPage }, (_, i) => geometry.offsetOf(i));
  return { size, align, boundary, blockSize, allocation, effectiveBoundary, blocksPerPage, wastedBytes, offsets };
}
