/** A copy of the build in which one file at a time is replaced by a mutant's. */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import type { Mutant } from './mutant.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** The text of the mutant's file, mutated and compiled. */
function compile({ file, from, to }: Mutant): string {
  const text = readFileSync(join(ROOT, file), 'utf8');
  const { config } = ts.readConfigFile(join(ROOT, 'tsconfig.json'), (path) => ts.sys.readFile(path)) as {
    config: { compilerOptions: object };
  };
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, ROOT);
  const { outputText } = ts.transpileModule(
    text.replace(from, () => to),
    {
      // NodeNext would look for a package.json, and take what it does not find for CommonJS.
      compilerOptions: { ...options, module: ts.ModuleKind.ESNext, sourceMap: false, declaration: false },
      fileName: join(ROOT, file),
    },
  );
  return outputText;
}

/** The build that others use stays as it is, whatever interrupts. */
export class Workbench {
  readonly folder: string = mkdtempSync(join(tmpdir(), 'dmapool-mutants-'));

  constructor() {
    // Whatever ends this process, no copy stays; a signal that nobody handles would skip `exit`.
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

  /** Runs something with the mutant in place. */
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
