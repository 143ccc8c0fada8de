// Pulumi resource plugin "docker": serves the provider, or prints its schema when asked for it at build time.
package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfgen"
	shim "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim"
	sdkv2 "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim/sdk-v2"
	"github.com/pulumi/pulumi/sdk/v3/go/common/diag"
	"github.com/pulumi/pulumi/sdk/v3/go/common/diag/colors"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/terraform-providers/terraform-provider-docker/internal/provider"
)

// version is the one that the Python SDK asks for; set by the linker.
var version = "0.0.0"

// Empty in the first of two builds, which prints it; computing it at every start would cost 0.2 s.
//
//go:embed schema.json
var schema []byte

const module = "index"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--print-schema" {
		if err := printSchema(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	tfbridge.Main("docker", version, info(), schema)
}

func printSchema() error {
	sink := diag.DefaultSink(io.Discard, os.Stderr, diag.FormatOptions{Color: colors.Never})
	spec, err := tfgen.GenerateSchema(info(), sink)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(spec)
}

func info() tfbridge.ProviderInfo {
	p := sdkv2.NewProvider(provider.New(version)())
	prov := tfbridge.ProviderInfo{
		P:            p,
		Name:         "docker",
		Version:      version,
		GitHubOrg:    "kreuzwerker",
		MetadataInfo: tfbridge.NewProviderMetadata([]byte("{}")),
		Resources:    map[string]*tfbridge.ResourceInfo{},
		DataSources:  map[string]*tfbridge.DataSourceInfo{},
	}
	p.ResourcesMap().Range(func(name string, _ shim.Resource) bool {
		prov.Resources[name] = &tfbridge.ResourceInfo{Tok: tokens.Type(token(typeName(name)))}
		return true
	})
	p.DataSourcesMap().Range(func(name string, _ shim.Resource) bool {
		prov.DataSources[name] = &tfbridge.DataSourceInfo{Tok: tokens.ModuleMember(token("get" + typeName(name)))}
		return true
	})
	// Two containers can't share a name or a port, so the old one has to go first: as in Pulumi's own plugin.
	prov.Resources["docker_container"].DeleteBeforeReplace = true
	prov.SetAutonaming(255, "-")
	return prov
}

// typeName turns docker_registry_image into RegistryImage. docker_image is RemoteImage in Pulumi's SDK, where
// Image is a thing of its own.
func typeName(name string) string {
	if name == "docker_image" {
		return "RemoteImage"
	}
	var b strings.Builder
	for _, word := range strings.Split(strings.TrimPrefix(name, "docker_"), "_") {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}

func token(name string) string {
	lower := string(unicode.ToLower(rune(name[0]))) + name[1:]
	return fmt.Sprintf("docker:%s/%s:%s", module, lower, name)
}
