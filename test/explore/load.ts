/**
 * Compiles a scenario with all modules of the project that it needs, instruments the given files, and loads the result.
 * Every file of the project is compiled from its source and loaded anew, so that no module exists twice.
 */
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import vm from 'node:vm';
import ts from 'typescript';
import { CallGraph, type Refusal } from './call-graph.ts';
import { InstrumentError } from './errors.ts';
import { Machine } from './machine.ts';
import type { Mutation } from './mutate.ts';
import { MACHINE, rewriter } from './rewrite.ts';
import type { Scenario } from './scenario.ts';
import { SharedAccess } from './shared-access.ts';
import { placeOf, type Site } from './sites.ts';

/** The project's root: this file runs in dist/test/explore. */
const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

export interface LoadOptions {
  /** The module of the scenario, from the root of the project. It is instrumented too. */
  readonly scenario: string;
  /** The files to instrument, from the root of the project; a folder with a `/` at the end means all its files. */
  readonly instrument: readonly string[];
  /** Changes sources before they are compiled. It must change at least one file. */
  readonly mutate?: Mutation;
  /** Make plain reads of typed arrays yield points too. */
  readonly yieldAtReads?: boolean;
  /**
   * How to treat unsupported yield points (in constructors, accessors, async functions, callbacks of built-ins): refuse
   * to load, or throw if a worker reaches one. In `setup` and `check` they are harmless.
   */
  readonly uninterruptible?: 'refuse' | 'throw when reached';
}

/** The result of {@link load}: the exports of the scenario's module. */
export interface LoadedModule {
  readonly exports: Readonly<Record<string, unknown>>;
  /** One of the exports, as a scenario to explore. */
  scenario<S>(name: string): LoadedScenario<S>;
}

export interface LoadedScenario<S> {
  readonly scenario: Scenario<S>;
  readonly machine: Machine;
  readonly sites: readonly Site[];
  /** Places where workers read typed arrays in ways that bypass the machine. */
  readonly untracked: readonly string[];
}

const COMPILER_OPTIONS: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2024.d.ts', 'lib.esnext.disposable.d.ts'],
  types: ['node'],
  typeRoots: [path.join(ROOT, 'node_modules', '@types')],
  module: ts.ModuleKind.CommonJS,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  moduleDetection: ts.ModuleDetectionKind.Force,
  allowImportingTsExtensions: true,
  useDefineForClassFields: true,
  strict: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  skipLibCheck: true,
  noEmitOnError: false,
};

/** Parsed files that no mutation touched: parsing the library takes most of the time. */
const parsed = new Map<string, ts.SourceFile>();

function compilerHost(mutate: Mutation | undefined): { host: ts.CompilerHost; mutated: () => boolean } {
  const host = ts.createCompilerHost(COMPILER_OPTIONS, true);
  const getSourceFile = host.getSourceFile.bind(host);
  let mutated = false;
  host.getSourceFile = (fileName, languageVersion, ...rest) => {
    if (mutate !== undefined && !fileName.includes('node_modules')) {
      const text = ts.sys.readFile(fileName) ?? '';
      const changed = mutate(path.relative(ROOT, fileName), text);
      if (changed !== text) {
        mutated = true;
        return ts.createSourceFile(fileName, changed, languageVersion, true);
      }
    }
    const known = parsed.get(fileName);
    if (known !== undefined) return known;
    const file = getSourceFile(fileName, languageVersion, ...rest);
    if (file !== undefined) parsed.set(fileName, file);
    return file;
  };
  return { host, mutated: () => mutated };
}

export function load(options: LoadOptions): LoadedModule {
  const entry = path.join(ROOT, options.scenario);
  const { host, mutated } = compilerHost(options.mutate);
  const program = ts.createProgram([entry], COMPILER_OPTIONS, host);
  if (options.mutate !== undefined && !mutated())
    throw new InstrumentError('the mutation changed no file that is loaded');

  const relative = (file: string): string => path.relative(ROOT, file);
  const files = program
    .getSourceFiles()
    .filter((file) => !file.isDeclarationFile && !file.fileName.includes('node_modules'));
  const isNamed = (name: string): boolean =>
    options.instrument.some((given) => (given.endsWith('/') ? name.startsWith(given) : name === given));
  const instrumented = new Set(files.filter((file) => file.fileName === entry || isNamed(relative(file.fileName))));
  const absent = options.instrument.filter(
    (given) => ![...instrumented].some((file) => relative(file.fileName).startsWith(given)),
  );
  if (absent.length > 0) throw new InstrumentError(`${options.scenario} imports no ${absent.join(', ')}`);
  if (options.mutate === undefined) refuse(compileErrors(program, files), relative);

  const isInstrumented = (file: ts.SourceFile): boolean => instrumented.has(file);
  const access = new SharedAccess(program.getTypeChecker());
  const yieldAtReads = options.yieldAtReads ?? false;
  const graph = new CallGraph({ program, access, files, instrumented: isInstrumented, yieldAtReads });
  const refusals = graph.refusals();
  if (options.uninterruptible !== 'throw when reached') refuse(refusals, relative);

  const untracked = graph.untracked().map((node) => placeOf(node, relative));
  const sites: Site[] = [];
  const rewrite = rewriter({ graph, access, instrumented: isInstrumented, sites, relative, yieldAtReads });
  const machine = new Machine(sites);
  const texts = new Map<string, string>();
  for (const file of files) {
    const write: ts.WriteFileCallback = (name, text) => {
      if (name.endsWith('.js')) texts.set(file.fileName, text);
    };
    program.emit(file, write, undefined, false, { before: [rewrite] });
  }

  const resolve = (specifier: string, from: string): string | undefined =>
    ts.resolveModuleName(specifier, from, COMPILER_OPTIONS, host).resolvedModule?.resolvedFileName;
  const exports = link({ texts, resolve, machine }, entry);
  return {
    exports,
    scenario<S>(name: string): LoadedScenario<S> {
      const scenario = exports[name] as Scenario<S> | undefined;
      if (scenario?.setup === undefined) throw new InstrumentError(`${options.scenario} exports no scenario '${name}'`);
      return { scenario, machine, sites, untracked };
    },
  };
}

function compileErrors(program: ts.Program, files: readonly ts.SourceFile[]): string[] {
  return files.flatMap((file) =>
    [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)].map((diagnostic) => {
      const { line } = file.getLineAndCharacterOfPosition(diagnostic.start ?? 0);
      const message = ts.flattenDiagnosticMessageText(diagnostic.messageText, ' ');
      return `${path.relative(ROOT, file.fileName)}:${String(line + 1)}: ${message}`;
    }),
  );
}

function refuse(refusals: readonly (Refusal | string)[], relative: (file: string) => string): void {
  if (refusals.length === 0) return;
  const lines = refusals.map((refusal) =>
    typeof refusal === 'string' ? refusal : `${placeOf(refusal.node, relative)}: ${refusal.why}`,
  );
  throw new InstrumentError(`can't instrument:\n  ${[...new Set(lines)].join('\n  ')}`);
}

interface Linker {
  readonly texts: ReadonlyMap<string, string>;
  readonly resolve: (specifier: string, from: string) => string | undefined;
  readonly machine: Machine;
}

type Exports = Record<string, unknown>;

/** Runs the compiled modules, in the order of their imports, as CommonJS. */
function link(linker: Linker, entry: string): Exports {
  const modules = new Map<string, Exports>();
  const external = createRequire(path.join(ROOT, 'package.json'));
  const run = (fileName: string): Exports => {
    const known = modules.get(fileName);
    if (known !== undefined) return known;
    const exports: Exports = {};
    modules.set(fileName, exports);
    const requireHere = (specifier: string): unknown => {
      const resolved = linker.resolve(specifier, fileName);
      return resolved !== undefined && linker.texts.has(resolved) ? run(resolved) : external(specifier);
    };
    const wrapped = `(function (exports, require, ${MACHINE}) {${linker.texts.get(fileName)!}\n})`;
    const start = new vm.Script(wrapped, { filename: fileName }).runInThisContext() as (
      exports: Exports,
      require: (specifier: string) => unknown,
      machine: Machine,
    ) => void;
    start(exports, requireHere, linker.machine);
    return exports;
  };
  return run(entry);
}
