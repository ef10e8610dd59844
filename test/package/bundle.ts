/** Bundles imports of this package. */
import { brotliCompressSync, gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { type EntryPoint, root } from './packed.ts';

/** A bundle, minified, for browsers. */
export interface Bundle {
  readonly code: string;
  /** Modules that contribute to it, from the root of the project: `dist/src/dma-pool.js`. */
  readonly modules: readonly string[];
  /** Modules of Node's that it imports. */
  readonly builtins: readonly string[];
  readonly minified: number;
  /** Size in bytes after gzip and after brotli, each at its best level. */
  readonly gzip: number;
  readonly brotli: number;
}

/** Bundles a module of this source text. */
export async function bundle(contents: string): Promise<Bundle> {
  const { outputFiles, metafile } = await build({
    stdin: { contents, resolveDir: root },
    absWorkingDir: root,
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    platform: 'neutral',
    external: ['node:*'],
    write: false,
    metafile: true,
    // esbuild warns that a bare import of a package without side effects has no effect.
    logLevel: 'error',
  });
  const [output] = Object.values(metafile.outputs);
  const { contents: bytes, text } = outputFiles[0]!;
  return {
    code: text,
    modules: Object.entries(output!.inputs)
      .filter(([name, { bytesInOutput }]) => bytesInOutput > 0 && name !== '<stdin>')
      .map(([name]) => name)
      .sort(),
    builtins: output!.imports.map(({ path }) => path),
    minified: bytes.length,
    gzip: gzipSync(bytes, { level: 9 }).length,
    brotli: brotliCompressSync(bytes).length,
  };
}

/** True if an entry point uses nothing of Node's, and so runs in a browser too. */
export async function runsAnywhere({ specifier }: EntryPoint): Promise<boolean> {
  const { builtins } = await bundle(`export * from '${specifier}';`);
  return builtins.length === 0;
}
