/** A copy of the build, with one file at a time replaced by a mutant. */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import type { Mutant } from './mutant.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** Returns the compiled text of the mutated file. */
function compile({ file, from, to }: Mutant): string {
  const text = readFileSync(join(ROOT, file), 'utf8');
  const { config } = ts.readConfigFile(join(ROOT, 'tsconfig.json'), (path) => ts.sys.readFile(path)) as {
    config: { compilerOptions: object };
  };
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, ROOT);
  const { outputText } = ts.transpileModule(
    text.replace(from, () => to),
    {
      // NodeNext searches for a package.json, and compiles to CommonJS when there is none.
      compilerOptions: { ...options, module: ts.ModuleKind.ESNext, sourceMap: false, declaration: false },
      fileName: join(ROOT, file),
    },
  );
  return outputText;
}

/** Mutates only the copy, so that an interruption can't leave a mutant in the build. */
export class Workbench {
  readonly folder: string = mkdtempSync(join(tmpdir(), 'dmapool-mutants-'));

  constructor() {
    // Removes the copy at every exit. An unhandled signal would skip `exit`.
    process.once('exit', () => {
      rmSync(this.folder, { recursive: true, force: true });
    });
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(signal, () => {
        process.exit(130);
      });
    }
    cpSync(join(ROOT, 'dist'), join(this.folder, 'dist'), { recursive: true });
    cpSync(join(ROOT, 'package.json'), join(this.folder, 'package.json'));
    symlinkSync(join(ROOT, 'node_modules'), join(this.folder, 'node_modules'));
  }

  /** Calls `run` with the mutant in the copy. */
  async with<T>(mutant: Mutant, run: () => Promise<T>): Promise<T> {
    const path = join(this.folder, 'dist', mutant.file.replace(/\.ts$/, '.js'));
    const before = readFileSync(path);
    writeFileSync(path, compile(mutant));
    try {
      return await run();
    } finally {
      writeFileSync(path, before);
    }
  }
}
