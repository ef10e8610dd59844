/** The package as npm would publish it, for the tests beside this file. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';

export const root: string = fileURLToPath(new URL('../../../', import.meta.url));

/** The fields of package.json that the tests use. */
export interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly bin: Readonly<Record<string, string>>;
  readonly exports: Readonly<Record<string, string | { readonly types: string; readonly default: string }>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly scripts?: Readonly<Record<string, string>>;
  /** Modules that do something when they are imported. */
  readonly sideEffects: readonly string[];
}

export function readManifest(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest;
}

export const manifest: Manifest = readManifest(root);

/** An entry point of the package. */
export interface EntryPoint {
  /** The specifier after `from`: `dmapool/trace`. */
  readonly specifier: string;
  /** The same as part of a file name: `dmapool-trace`. */
  readonly fileName: string;
  /** The module, from the root of the package. */
  readonly module: string;
  /** Its declarations. */
  readonly types: string;
}

/** Every entry point that package.json declares, so that a new one is tested from its first day. */
export const entryPoints: readonly EntryPoint[] = Object.entries(manifest.exports).flatMap(([subpath, target]) => {
  if (typeof target === 'string') return [];
  const specifier = manifest.name + subpath.slice(1);
  return [{ specifier, fileName: specifier.replaceAll('/', '-'), module: target.default, types: target.types }];
});

/** Packs a folder without building it: other tests run from the same `dist`. */
export function pack(folder: string, destination: string): string {
  // Runs in the folder: npm could take a relative path for the name of a repository.
  const args = ['pack', '--ignore-scripts', '--silent', '--pack-destination', destination];
  execFileSync('npm', args, { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] });
  const { name, version } = readManifest(folder);
  return join(destination, `${name.replace(/^@/, '').replaceAll('/', '-')}-${version}.tgz`);
}

/** Packs the installed dependencies of a package, recursively, so that no network is needed. */
function dependencyTarballs(folder: string, project: string, seen = new Set<string>()): string[] {
  return Object.keys(readManifest(folder).dependencies ?? {}).flatMap((name) => {
    if (seen.has(name)) return [];
    seen.add(name);
    const installed = join(root, 'node_modules', name);
    return [pack(installed, project), ...dependencyTarballs(installed, project, seen)];
  });
}

/** Makes a folder a project with the packed package in it, and nothing else. */
export function installPackage(project: string, type: 'module' | 'commonjs' = 'module'): void {
  writeFileSync(join(project, 'package.json'), JSON.stringify({ private: true, type }));
  const tarballs = [pack(root, project), ...dependencyTarballs(root, project)];
  const args = ['install', '--offline', '--no-audit', '--no-fund', '--ignore-scripts', '--silent', ...tarballs];
  execFileSync('npm', args, { cwd: project, stdio: ['ignore', 'ignore', 'inherit'] });
}

/** Unpacks the result of {@link pack}; returns the folder of the package. */
export function unpack(tarball: string, destination: string): string {
  execFileSync('tar', ['-xzf', tarball, '-C', destination]);
  return join(destination, 'package');
}

/** A folder outside the project, removed after the tests of the calling file. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-package-'));
  after(() => {
    rmSync(folder, { recursive: true, force: true });
  });
  return folder;
}
