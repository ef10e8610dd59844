/** Modules for the guest's kernel: its headers, fetched through apt and kept beside the kernel, and their build. */

import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dependencies, download, makeFolder, unpack } from './debian.ts';
import { VmError } from './error.ts';
import type { VmKernel } from './kernel.ts';
import { findTool, needTool, runTool } from './tools.ts';

/** Why no modules can be built for the kernel without fetching or installing something, or null if they can. */
export function modulesUnavailable(kernel: VmKernel): string | null {
  for (const tool of ['make', 'gcc']) if (findTool(tool) === null) return `${tool} is not installed (Debian: ${tool})`;
  return existsSync(headersFolder(kernel)) ? null : `no headers of ${kernel.release}: npm run vm -- --prepare`;
}

/** Fetches the kernel's headers into its folder, unless they are there. */
export async function fetchHeaders(kernel: VmKernel, say: (line: string) => void): Promise<void> {
  const folder = headersFolder(kernel);
  if (existsSync(folder)) return;
  const { release } = kernel;
  const main = `linux-headers-${release}`;
  const parts = (await dependencies(main)).filter((name) => /^linux-(headers-.*-common|kbuild-.*)$/.test(name));
  if (parts.length !== 2) {
    throw new VmError('ERR_VM_KERNEL', `apt has no headers for ${release}; --prepare fetches the current kernel`);
  }
  await makeFolder(folder, async (work) => {
    say(`fetching ${[main, ...parts].join(', ')} through apt`);
    for (const file of await download([main, ...parts], work)) {
      await unpack(file, work);
      rmSync(file);
    }
    // Debian's names the place where the package would be installed.
    const common = join(
      folder,
      'usr',
      'src',
      parts.find((name) => name.endsWith('-common'))!,
    );
    writeFileSync(join(work, 'usr', 'src', main, 'Makefile'), `include ${join(common, 'Makefile')}\n`);
  });
}

/**
 * Builds a module, in a copy of its folder.
 *
 * @param source The folder with its `Kbuild` and sources.
 * @param name Its name, without `.ko`.
 * @param into The folder to put it in. @returns Its path.
 */
export async function buildModule(kernel: VmKernel, source: string, name: string, into: string): Promise<string> {
  const make = needTool('make', 'make');
  needTool('gcc', 'gcc');
  const work = mkdtempSync(join(tmpdir(), 'dmapool-module-'));
  try {
    cpSync(source, work, { recursive: true });
    const headers = join(headersFolder(kernel), 'usr', 'src', `linux-headers-${kernel.release}`);
    // Type information would need pahole.
    await runTool(make, ['-s', '-C', headers, `M=${work}`, 'CONFIG_DEBUG_INFO_BTF_MODULES=', 'modules']);
    const file = join(into, `${name}.ko`);
    cpSync(join(work, `${name}.ko`), file);
    return file;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function headersFolder(kernel: VmKernel): string {
  return join(kernel.folder, 'headers');
}
