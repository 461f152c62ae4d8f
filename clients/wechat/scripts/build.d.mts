/** The bundle's text. entry: relative to the package. */
export function bundle(options?: { minify?: boolean; entry?: string }): Promise<string>;
